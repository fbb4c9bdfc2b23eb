/* Convolution as an implicit matrix product: output pixels x (taps * channels) times packed weights.
 *
 * A register tile is MR pixels x NB vectors of output channels. Weights: [group][block][K][nb*VL], K in the order kh, kw, ic; the last
 * block of a group has NBT vectors, its last vector NLT valid lanes (padded with zeros). Loop nest of one thread:
 *   group / block of PT tiles / block of OCS channel blocks / block of KC terms / tile / channel block
 * Every element is the bias plus its K products in ascending order, whichever tile, thread or K block it falls in.
 *
 * Defined by the tactic (dimensions may read v[]): BATCH IH IW OH OW IMG_ROWS; static: ICG OCG GROUPS KH KW SH SW DH DW PAD_T PAD_L
 * PAD_H PAD_W (1 if any row/column tap can fall outside) XLD OLD; MR MRT (pixels of the last tile, 0: full, -1: known at run time) NB NBT NLT
 * OCS PT KC (a multiple of UK, or at least K) UK PFL (cache lines of later weights fetched every UK terms) MODE SPLIT EPI_LOOP BIAS (0 none, 1 padded,
 * 2 exact length); P_X P_W P_BIAS P_OUT P_WS: positions in p. */

#define FLAT 0   /* 1x1, stride 1, unpadded: tiles run over all pixels, read in place */
#define ROWS 1   /* tiles within an output row, read in place; tiles that touch padding are copied */
#define COPIED 2 /* tiles run over all pixels, copied to a panel of MR rows first */

#define KTOTAL (KH * KW * ICG)
#define OCV ((OCG + VL - 1) / VL)
#define NBLK ((OCV + NB - 1) / NB)
/* An odd number of cache lines between panel rows, so that they never compete for one L1 set; VL floats of slack for whole-vector writes. */
#define PANEL_LD ((((KTOTAL + VL + 15) / 16) | 1) * 16)
#define MERGED (XLD == ICG && DW == 1 && GROUPS == 1)
#define SEG_TAPS (MERGED ? 1 : KW)
#define SEG (MERGED ? KW * ICG : ICG)
#define KBLOCKED (KC < KTOTAL)

typedef struct {
  const float *a, *b, *bias;
  const char *next; /* weights to bring into L2 meanwhile */
  float *out, *partial;
  const epi_t *e;
  int64_t pix, c, img_rows, row_step, len;
  int32_t kh0, kh1, valid, first, last;
} job_t;

INLINE void step(vf acc[MR][NB], const float *a, const int64_t lda, const float *b, const int mr, const int nb) {
  vf w[NB];
#pragma clang loop unroll(full)
  for (int j = 0; j < nb; j++) w[j] = ld(b + j * VL);
#pragma clang loop unroll(full)
  for (int i = 0; i < mr; i++) {
    vf x = splat(a[i * lda]);
#pragma clang loop unroll(full)
    for (int j = 0; j < nb; j++) acc[i][j] = FMA(x, w[j], acc[i][j]);
  }
}

INLINE void terms(vf acc[MR][NB], const float *a, const int64_t lda, const float *b, int64_t len, const char **next, const int mr, const int nb) {
  int64_t k = 0;
#pragma clang loop unroll(disable)
  for (; k + UK <= len; k += UK) {
#pragma clang loop unroll(full)
    for (int l = 0; l < PFL; l++) __builtin_prefetch(*next + 64 * l, 0, 2);
    *next += 64 * PFL;
#pragma clang loop unroll(full)
    for (int u = 0; u < UK; u++) step(acc, a + k + u, lda, b + (k + u) * nb * VL, mr, nb);
  }
#pragma clang loop unroll(disable)
  for (; k < len; k++) step(acc, a + k, lda, b + k * nb * VL, mr, nb);
}

INLINE void finish(vf v, const job_t *q, int i, int j, int n) {
  int64_t pix = q->pix + i, c = q->c + j * VL;
  stx(q->out + pix * OLD + c, epilogue(v, q->e, pix / q->img_rows, pix, c, n), n);
}

/* One register tile. lda: elements between A rows; copied: A is a panel (one run of q->len terms) instead of the image. */
INLINE void tile(const job_t *q, const int mr, const int nb, const int nl, const int64_t lda, const int copied, const int partial_rows) {
  vf acc[MR][NB];
  const char *next = q->next;
  if (!KBLOCKED || q->first) {
#pragma clang loop unroll(full)
    for (int j = 0; j < nb; j++) {
#if BIAS == 0
      vf b = {};
#elif BIAS == 1
      vf b = ld(q->bias + j * VL);
#else
      vf b = ldx(q->bias + j * VL, j == nb - 1 ? nl : VL);
#endif
#pragma clang loop unroll(full)
      for (int i = 0; i < mr; i++) acc[i][j] = b;
    }
  } else {
#pragma clang loop unroll(full)
    for (int i = 0; i < mr; i++)
#pragma clang loop unroll(full)
      for (int j = 0; j < nb; j++) acc[i][j] = ld(q->partial + (i * nb + j) * VL);
  }
  if (copied) {
    terms(acc, q->a, lda, q->b, KBLOCKED ? q->len : KTOTAL, &next, mr, nb);
  } else if (KH == 1 && SEG_TAPS == 1) {
    terms(acc, q->a, lda, q->b, KBLOCKED ? q->len : SEG, &next, mr, nb);
  } else {
    const float *b = q->b + (int64_t)q->kh0 * (KW * ICG) * nb * VL;
#pragma clang loop unroll(disable)
    for (int kh = q->kh0; kh < q->kh1; kh++)
#pragma clang loop unroll(disable)
      for (int kw = 0; kw < SEG_TAPS; kw++) {
        terms(acc, q->a + kh * q->row_step + kw * (DW * XLD), lda, b, SEG, &next, mr, nb);
        b += SEG * nb * VL;
      }
  }
  if (KBLOCKED && !q->last) {
#pragma clang loop unroll(full)
    for (int i = 0; i < mr; i++)
#pragma clang loop unroll(full)
      for (int j = 0; j < nb; j++) st(q->partial + (i * nb + j) * VL, acc[i][j]);
    return;
  }
  if (EPI_LOOP || partial_rows) {
    float spill[MR * NB * VL] __attribute__((aligned(64)));
#pragma clang loop unroll(full)
    for (int i = 0; i < mr; i++)
#pragma clang loop unroll(full)
      for (int j = 0; j < nb; j++) st(spill + (i * nb + j) * VL, acc[i][j]);
    const int rows = partial_rows ? q->valid : mr;
#pragma clang loop unroll(disable)
    for (int i = 0; i < rows; i++)
#pragma clang loop unroll(full)
      for (int j = 0; j < nb; j++) finish(ld(spill + (i * nb + j) * VL), q, i, j, j == nb - 1 ? nl : VL);
  } else {
#pragma clang loop unroll(full)
    for (int i = 0; i < mr; i++)
#pragma clang loop unroll(full)
      for (int j = 0; j < nb; j++) finish(acc[i][j], q, i, j, j == nb - 1 ? nl : VL);
  }
}

/* name: blocks of NB whole vectors; name_t: the last block of a group where that is another thing. */
#define BODY(name, mr, nb, nl, lda, copied, part) \
  static __attribute__((noinline)) void name(const job_t *q) { tile(q, mr, nb, nl, lda, copied, part); }
#if NBT || NLT < VL
#define VARIANT(name, mr, lda, copied, part) \
  BODY(name, mr, NB, VL, lda, copied, part) BODY(name##_t, mr, NBT ? NBT : NB, NLT, lda, copied, part)
#define CALL(name) (j == NBLK - 1 ? name##_t : name)(&q)
#else
#define VARIANT(name, mr, lda, copied, part) BODY(name, mr, NB, VL, lda, copied, part)
#define CALL(name) name(&q)
#endif

#if MODE != COPIED
VARIANT(tile_direct, MR, SW * XLD, 0, 0)
#if MRT > 0
VARIANT(tile_direct_last, MRT, SW * XLD, 0, 0)
#endif
#endif
#if MODE == COPIED || PAD_W
VARIANT(tile_panel, MR, PANEL_LD, 1, 0)
#if MRT > 0
VARIANT(tile_panel_last, MRT, PANEL_LD, 1, 0)
#endif
#endif
#if MRT < 0
VARIANT(tile_panel_part, MR, PANEL_LD, 1, 1)
#endif

/* n floats; the destination has VL floats of slack. */
INLINE void copy(float *to, const float *from, int64_t n) {
  int64_t k = 0;
#pragma clang loop unroll_count(4)
  for (; k + VL <= n; k += VL) st(to + k, ld(from + k));
  if (k < n) st(to + k, ldn(from + k, (int)(n - k)));
}

INLINE void clear(float *to, int64_t n) {
  for (int64_t k = 0; k < n; k += VL) st(to + k, (vf){});
}

typedef struct { int64_t ih, iw, oh, ow; } map_t;

/* Rows of `count` pixels from `pix` on, in K order with zeros for padding, then zero rows up to MR. x: first channel of the group. */
static __attribute__((noinline)) void gather(float *panel, const float *x, map_t m, int64_t pix, int count) {
  int64_t ow = pix % m.ow, row = pix / m.ow, oh = row % m.oh, img = row / m.oh;
  for (int i = 0; i < count; i++, panel += PANEL_LD) {
    float *to = panel;
    int64_t h = oh * SH - PAD_T, w = ow * SW - PAD_L;
    const float *from = x + ((img * m.ih + h) * m.iw + w) * XLD;
    for (int kh = 0; kh < KH; kh++, h += DH, from += DH * m.iw * XLD) {
      if (PAD_H && (h < 0 || h >= m.ih)) {
        clear(to, KW * ICG);
        to += KW * ICG;
      } else if (MERGED) {
        int64_t lo = 0, hi = KW;
        if (PAD_W) {
          lo = w < 0 ? -w : 0;
          lo = lo > KW ? KW : lo;
          hi = m.iw - w < KW ? m.iw - w : KW;
          hi = hi < lo ? lo : hi;
          if (lo) clear(to, lo * ICG);
        }
        copy(to + lo * ICG, from + lo * XLD, (hi - lo) * ICG);
        if (PAD_W && hi < KW) clear(to + hi * ICG, (KW - hi) * ICG);
        to += KW * ICG;
      } else {
        for (int kw = 0; kw < KW; kw++, to += ICG) {
          int64_t at = w + kw * DW;
          if (PAD_W && (at < 0 || at >= m.iw)) clear(to, ICG);
          else copy(to, from + kw * (DW * XLD), ICG);
        }
      }
    }
    if (++ow == m.ow) {
      ow = 0;
      if (++oh == m.oh) { oh = 0; img++; }
    }
  }
  for (int i = count; i < MR; i++, panel += PANEL_LD) clear(panel, KTOTAL);
}

#define PARTIAL (MR * NB * VL)
#define PANELS (MODE == COPIED ? PT : (MODE == ROWS && PAD_W) || MRT < 0 ? 1 : 0)

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  (void)v;
  const map_t m = {IH, IW, OH, OW};
  const int64_t pixels = (int64_t)(BATCH) * m.oh * m.ow;
  const int64_t per_row = MODE == ROWS ? (m.ow + MR - 1) / MR : 1;
  const int64_t tiles = MODE == ROWS ? (int64_t)(BATCH) * m.oh * per_row : (pixels + MR - 1) / MR;
  epi_t e;
  epi_init(&e, p);
  float *panel = P_WS >= 0 ? (float *)p[P_WS < 0 ? 0 : P_WS] : (float *)0;
  float *partial = panel + (int64_t)PANELS * MR * PANEL_LD;
  int64_t t0 = 0, t1 = tiles, u0 = 0, u1 = (int64_t)GROUPS * NBLK;
  if (SPLIT) share(u1, part, parts, &u0, &u1);
  else share(tiles, part, parts, &t0, &t1);
  if (u0 == u1) return;

  for (int64_t g = u0 / NBLK; g * NBLK < u1; g++) {
    const int64_t j0 = u0 > g * NBLK ? u0 - g * NBLK : 0, j1 = u1 < (g + 1) * NBLK ? u1 - g * NBLK : NBLK;
    const float *x = (const float *)p[P_X] + g * ICG, *w = (const float *)p[P_W] + g * (int64_t)OCV * VL * KTOTAL;
    for (int64_t tb = t0; tb < t1; tb += PT) {
      const int64_t te = tb + PT < t1 ? tb + PT : t1;
      if (MODE == COPIED)
        for (int64_t t = tb; t < te; t++)
          gather(panel + (t - tb) * MR * PANEL_LD, x, m, t * MR, (int)(pixels - t * MR < MR ? pixels - t * MR : MR));
      for (int64_t js = j0; js < j1; js += OCS) {
        const int64_t je = js + OCS < j1 ? js + OCS : j1;
        const char *later = (const char *)(w + je * (int64_t)NB * VL * KTOTAL);
        for (int64_t kb = 0; kb < KTOTAL; kb += KC) {
          for (int64_t t = tb; t < te; t++) {
            job_t q;
            const int64_t row = MODE == ROWS ? t / per_row : 0, col = MODE == ROWS ? t % per_row * MR : 0;
            q.pix = MODE == ROWS ? row * m.ow + col : t * MR;
            const int64_t left = MODE == ROWS ? m.ow - col : pixels - q.pix;
            q.valid = (int32_t)(left < MR ? left : MR);
            q.e = &e;
            q.out = (float *)p[P_OUT];
            q.img_rows = IMG_ROWS;
            q.kh0 = 0, q.kh1 = KH;
            q.first = kb == 0, q.last = kb + KC >= KTOTAL;
            q.len = KTOTAL - kb < KC ? KTOTAL - kb : KC;
            q.row_step = DH * m.iw * XLD;
            int copied = MODE == COPIED || (MRT < 0 && q.valid < MR);
            if (MODE == ROWS) {
              const int64_t img = row / m.oh, h = row % m.oh * SH - PAD_T, at = col * SW - PAD_L;
              if (PAD_H) {
                if (h < 0) q.kh0 = (int32_t)((-h + DH - 1) / DH < KH ? (-h + DH - 1) / DH : KH);
                if (h + (KH - 1) * DH >= m.ih) q.kh1 = (int32_t)((m.ih - h + DH - 1) / DH);
                if (q.kh1 < q.kh0) q.kh1 = q.kh0;
              }
              if (PAD_W) copied |= at < 0 || at + (q.valid - 1) * SW + (KW - 1) * DW >= m.iw;
              q.a = x + ((img * m.ih + h) * m.iw + at) * XLD;
            } else {
              q.a = x + q.pix * XLD + kb;
            }
            if (copied) {
              if (MODE == COPIED) q.a = panel + (t - tb) * MR * PANEL_LD + kb;
              else {
                gather(panel, x, m, q.pix, q.valid);
                q.a = panel + kb;
              }
            }
            for (int64_t j = js; j < je; j++) {
              q.b = w + (j * (int64_t)NB * KTOTAL) * VL;
              const int tail = NBT && j == NBLK - 1;
              q.b += kb * (tail ? NBT : NB) * VL;
              q.c = g * OCG + j * NB * VL;
#if BIAS
              q.bias = (const float *)p[P_BIAS] + (BIAS == 1 ? g * (int64_t)OCV * VL + j * NB * VL : q.c);
#endif
              q.partial = KBLOCKED ? partial + ((t - tb) * OCS + (j - js)) * PARTIAL : partial;
              q.next = later;
              later += PFL * 64 * (q.len / UK);
              if (copied) {
#if MRT < 0
                if (q.valid < MR) { CALL(tile_panel_part); continue; }
#endif
#if MODE == COPIED || PAD_W
#if MRT > 0
                if (q.valid < MR) { CALL(tile_panel_last); continue; }
#endif
                CALL(tile_panel);
#endif
                continue;
              }
#if MODE != COPIED
#if MRT > 0
              if (q.valid < MR) { CALL(tile_direct_last); continue; }
#endif
              CALL(tile_direct);
#endif
            }
          }
        }
      }
    }
  }
}
