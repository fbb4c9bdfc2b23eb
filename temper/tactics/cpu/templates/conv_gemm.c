/* Convolution as an implicit matrix product: output pixels x (taps * channels) times packed weights.
 *
 * A register tile is MR pixels x NB vectors of output channels. Weights: [group][block][K][nb*VL], K in the order kh, kw, ic; the last
 * block of a group has NBT vectors, its last vector NLT valid lanes (padded with zeros). Loop nest of one thread:
 *   group / pixel block / OCS channel blocks / KC terms / tile / channel block
 * Every element is the bias plus its K products in ascending order, whichever tile, thread or K block it falls in.
 *
 * K is counted in 32-bit words of ICG a tap: a float, four bytes, two int16 or two bfloat16 of the ICX elements that the input has (tile.h).
 * The bytes of a last word beyond them meet zero weights; a bfloat16 there is zero itself, since it might be no number. Tiles read the image in place only where its pixels are whole words of the same form.
 *
 * Defined by the tactic (dimensions may read v[]): BATCH IH IW OH OW IMG_ROWS; static: in_t ICX ICG OCG GROUPS KH KW SH SW DH DW PAD_T PAD_L
 * PAD_R PADDED (1 if a tap can fall outside) XLD OLD; MR MRT (pixels of the last tile, 0: full, -1: known at run time) NB NBT NLT OCS
 * PT (tiles per pixel block; output rows in BAND mode) KC (terms per K block) UK PFL (cache lines of later weights fetched
 * every UK terms) MODE BAND_LD SPLIT KBLOCKED
 * EPI_LOOP BIAS (0 none, 1 padded, 2 exact length); P_X P_W P_BIAS P_OUT P_WS: positions in p. */

#define FLAT 0   /* 1x1, stride 1: tiles run over all pixels, read in place */
#define ROWS 1   /* unpadded: tiles within an output row, read in place */
#define COPIED 2 /* tiles run over all pixels, their terms copied to a panel of MR rows first */
#define BAND 3   /* tiles within an output row; the input rows of a pixel block are copied with their padding first */

#define BY_ROW (MODE == ROWS || MODE == BAND)
/* Words between neighbouring pixels where tiles read them. */
#define XLDW (XLD * (int64_t)sizeof(in_t) / 4)
#define PIXEL (MODE == BAND ? BAND_LD : XLDW)
/* Bytes between neighbouring output pixels there, and words of a row of a band. */
#define STEP (PACKED ? SW * ICX : SW * PIXEL * 4)
#define BAND_ROW(width) (PACKED ? ((width) * ICX + 3) / 4 + 1 : (width) * BAND_LD)
#define KTOTAL (KH * KW * ICG)
#define OCV ((OCG + VL - 1) / VL)
#define NBLK ((OCV + NB - 1) / NB)
/* An odd number of cache lines between panel rows, so that they never compete for one L1 set; VL floats of slack for whole-vector writes. */
#define PANEL_LD ((((KTOTAL + VL + 15) / 16) | 1) * 16)
/* Taps of a kernel row are one run of terms. */
#define MERGED (PIXEL == ICG && DW == 1)
#define SEG_TAPS (MERGED ? 1 : KW)
#define SEG (MERGED ? KW * ICG : ICG)
/* The input's elements are words as they are. */
#define SAME (TERMS != PAIRS && !WIDENED && ICX * sizeof(in_t) == ICG * 4)

/* The `taps` * ICX elements of neighbouring taps as words; the destination has VL words of slack. */
INLINE void take(float *to, const in_t *from, int64_t taps) {
#if WIDENED
  for (; taps > 0; taps--, to += ICG, from += ICX) {
    uint32_t __attribute__((may_alias)) *bits = (void *)to;
    for (int k = 0; k < ICX; k++) bits[k] = (uint32_t)from[k] << 16;
  }
#elif TERMS == FLOAT
  copy(to, from, taps * ICG);
#elif TERMS == BYTES || TERMS == HALVES
  if (SAME) { copy(to, (const float *)from, taps * ICG); return; }
  enum { WHOLE = 4 * VL / (int)sizeof(in_t), REST = ICX / WHOLE * WHOLE };
  for (; taps > 0; taps--, to += ICG, from += ICX) {
    int k = 0;
#pragma clang loop unroll_count(4)
    for (; k + WHOLE <= ICX; k += WHOLE) st((in_t *)to + k, ld(from + k));
    if (TERMS == HALVES && ICX % 2) to[ICG - 1] = 0.0f;
    __builtin_memcpy((in_t *)to + REST, from + REST, (ICX - REST) * sizeof(in_t));
  }
#else
  for (; taps > 0; taps--, to += ICG, from += ICX) {
    int16_t __attribute__((may_alias)) *pairs = (void *)to;
    for (int k = 0; k < ICX; k++) pairs[k] = from[k];
  }
#endif
}

/* One register tile. lda: bytes between A rows; copied: A is a panel (one run of q->len terms) instead of the image. */
INLINE void tile(const job_t *q, const int mr, const int nb, const int nl, const int64_t lda, const int copied, const int part) {
#if LATE
  if (mr == MR && nb == NB && nl == VL && !part) {
    tile_and_late(q, lda, KTOTAL);
    return;
  }
#endif
  acc_t acc[MR][NB];
  const char *next = q->next;
  start(acc, q, mr, nb, nl);
  if (copied || (KH == 1 && SEG_TAPS == 1)) {
    terms(acc, q->a, lda, q->b, KBLOCKED ? q->len : KTOTAL, &next, mr, nb);
  } else {
    const float *b = q->b;
#pragma clang loop unroll(disable)
    for (int kh = 0; kh < KH; kh++)
#pragma clang loop unroll(disable)
      for (int kw = 0; kw < SEG_TAPS; kw++) {
        terms(acc, q->a + kh * q->row_step + kw * (DW * PIXEL), lda, b, SEG, &next, mr, nb);
        b += SEG * nb * VL;
      }
  }
  store(acc, q, mr, nb, nl, part);
}

#if MODE != COPIED
VARIANT(tile_direct, MR, STEP, 0, 0)
#if MRT > 0
VARIANT(tile_direct_last, MRT, STEP, 0, 0)
#endif
#endif
#if MODE == COPIED
VARIANT(tile_panel, MR, 4 * PANEL_LD, 1, 0)
#if MRT > 0
VARIANT(tile_panel_last, MRT, 4 * PANEL_LD, 1, 0)
#endif
#endif
#if MRT < 0
VARIANT(tile_panel_part, MR, 4 * PANEL_LD, 1, 1)
#endif

/* zero: the code that padding holds. */
typedef struct { int64_t ih, iw, oh, ow; int32_t zero; } map_t;
#define NOTHING ((SUMS >= 0 ? (uint32_t)m.zero : (uint32_t)ZERO_POINT) ^ (PACKED && FLIP ? 128u : 0u))

/* Rows of `count` pixels from `pix` on, in K order with zeros for padding, then zero rows up to MR. x: first channel of the group. */
static __attribute__((noinline)) void gather(float *panel, const in_t *x, map_t m, int64_t pix, int count) {
  int64_t ow = pix % m.ow, row = pix / m.ow, oh = row % m.oh, img = row / m.oh;
  for (int i = 0; i < count; i++, panel += PANEL_LD) {
    float *to = panel;
    int64_t h = oh * SH - PAD_T, w = ow * SW - PAD_L;
    const in_t *from = x + ((img * m.ih + h) * m.iw + w) * XLD;
    for (int kh = 0; kh < KH; kh++, h += DH, from += DH * m.iw * XLD) {
      if (PADDED && (h < 0 || h >= m.ih)) {
        clear(to, KW * ICG, NOTHING);
        to += KW * ICG;
        continue;
      }
      if (XLD == ICX && DW == 1 && (!PADDED || (w >= 0 && w + KW <= m.iw))) {
        take(to, from, KW);
        to += KW * ICG;
        continue;
      }
      for (int kw = 0; kw < KW; kw++, to += ICG) {
        const int64_t at = w + kw * DW;
        if (PADDED && (at < 0 || at >= m.iw)) clear(to, ICG, NOTHING);
        else take(to, from + kw * (DW * XLD), 1);
      }
    }
    if (++ow == m.ow) {
      ow = 0;
      if (++oh == m.oh) { oh = 0; img++; }
    }
  }
  for (int i = count; i < MR; i++, panel += PANEL_LD) clear(panel, KTOTAL, NOTHING);
}

#if PACKED
INLINE void put_bytes(uint8_t *to, const uint8_t *from, int64_t n) {
  int64_t k = 0;
  for (; k + 4 * VL <= n; k += 4 * VL) sti(to + k, ldi(from + k) ^ (int32_t)(FLIP ? 0x80808080u : 0u));
  for (; k < n; k++) to[k] = from[k] ^ (FLIP ? 128 : 0);
}
#endif

/* Input rows that output rows [first, end) of an image read, with padding, BAND_LD elements a pixel. x: first channel of the group. */
static __attribute__((noinline)) void fill_band(float *band, const in_t *x, map_t m, int64_t img, int64_t first, int64_t end) {
  const int64_t width = (PAD_L) + m.iw + (PAD_R), stop = (end - 1) * SH + (KH - 1) * DH + 1 - (PAD_T);
  for (int64_t h = first * SH - (PAD_T); h < stop; h++, band += BAND_ROW(width)) {
    if (h < 0 || h >= m.ih) {
      clear(band, BAND_ROW(width), NOTHING);
      continue;
    }
    const in_t *from = x + (img * m.ih + h) * m.iw * XLD;
#if PACKED
    const int64_t left = (PAD_L) > 0 ? (PAD_L) * ICX : 0, bytes = (m.iw + ((PAD_L) < 0 ? (PAD_L) : 0) + ((PAD_R) < 0 ? (PAD_R) : 0)) * ICX;
    clear(band, (left + 3) / 4, NOTHING);
    put_bytes((uint8_t *)band + left, (const uint8_t *)from + ((PAD_L) < 0 ? -(PAD_L) * ICX : 0), bytes);
    clear((float *)((char *)band + left + bytes), (BAND_ROW(width) * 4 - left - bytes + 3) / 4, NOTHING);
    continue;
#endif
    float *to = band;
    int64_t skip = 0, count = m.iw;
    if (PAD_L > 0) clear(to, (PAD_L) * BAND_LD, NOTHING), to += (PAD_L) * BAND_LD;
    if (PAD_L < 0) skip = -(PAD_L), count -= skip;
    if (PAD_R < 0) count += PAD_R;
    from += skip * XLD;
    if (XLD == ICX && BAND_LD == ICG) take(to, from, count);
    else
      for (int64_t w = 0; w < count; w++) take(to + w * BAND_LD, from + w * XLD, 1);
    if (PAD_R > 0) clear(to + count * BAND_LD, (PAD_R) * BAND_LD, NOTHING);
  }
}

#define PARTIAL (MR * NB * VL)
#define PANELS (MODE == COPIED ? PT : MRT < 0 ? 1 : 0)
#define BAND_ROWS ((PT - 1) * SH + (KH - 1) * DH + 1)

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  (void)v;
#if SUMS >= 0
  const int32_t zero = *(const in_t *)p[P_ZERO];
#else
  const int32_t zero = 0;
#endif
  const map_t m = {IH, IW, OH, OW, zero};
  const int64_t pixels = (int64_t)(BATCH) * m.oh * m.ow;
  const int64_t per_row = BY_ROW ? (m.ow + MR - 1) / MR : 1;
  const int64_t tiles = BY_ROW ? (int64_t)(BATCH) * m.oh * per_row : (pixels + MR - 1) / MR;
  epi_t e;
  epi_init(&e, p);
  float *panel = P_WS >= 0 ? (float *)p[P_WS < 0 ? 0 : P_WS] : (float *)0;
  float *partial = panel + (int64_t)PANELS * MR * PANEL_LD;
  float *band = partial + (KBLOCKED ? PARTIAL * OCS * (int64_t)(PT) : 0);
  int64_t t0 = 0, t1 = tiles, u0 = 0, u1 = (int64_t)GROUPS * NBLK;
  if (SPLIT) share(u1, part, parts, &u0, &u1);
  else share(tiles, part, parts, &t0, &t1);
  if (u0 == u1) return;
#if LATE
  late_t late;
  late.q.e = &e, late.q.out = p[P_OUT], late.q.img_rows = IMG_ROWS, late.some = 0;
#endif

  for (int64_t g = u0 / NBLK; g * NBLK < u1; g++) {
    const int64_t j0 = u0 > g * NBLK ? u0 - g * NBLK : 0, j1 = u1 < (g + 1) * NBLK ? u1 - g * NBLK : NBLK;
    const in_t *x = (const in_t *)p[P_X] + g * ICX;
    const float *w = (const float *)p[P_W] + g * (int64_t)OCV * VL * KTOTAL;
    for (int64_t tb = t0, te; tb < t1; tb = te) {
      te = tb + PT;
      int64_t band_row = 0;
      if (MODE == BAND) {
        band_row = tb / per_row;
        const int64_t img = band_row / m.oh, image_end = (img + 1) * m.oh;
        te = (band_row + PT < image_end ? band_row + PT : image_end) * per_row;
        te = te < t1 ? te : t1;
        fill_band(band, x, m, img, band_row % m.oh, (te - 1) / per_row % m.oh + 1);
      }
      te = te < t1 ? te : t1;
      if (MODE == COPIED)
        for (int64_t t = tb; t < te; t++)
          gather(panel + (t - tb) * MR * PANEL_LD, x, m, t * MR, (int)(pixels - t * MR < MR ? pixels - t * MR : MR));
      for (int64_t js = j0; js < j1; js += OCS) {
        const int64_t je = js + OCS < j1 ? js + OCS : j1;
        const int64_t jn = je + OCS < j1 ? je + OCS : j1;
        const char *later = (const char *)(w + (je < NBLK ? je * NB : OCV) * (int64_t)VL * KTOTAL);
        const char *later_end = (const char *)(w + (jn < NBLK ? jn * NB : OCV) * (int64_t)VL * KTOTAL);
        for (int64_t kb = 0; kb < KTOTAL; kb += KC) {
          for (int64_t t = tb; t < te; t++) {
            job_t q;
            const int64_t row = BY_ROW ? t / per_row : 0, col = BY_ROW ? t % per_row * MR : 0;
            q.pix = BY_ROW ? row * m.ow + col : t * MR;
            const int64_t left = BY_ROW ? m.ow - col : pixels - q.pix;
            q.valid = (int32_t)(left < MR ? left : MR);
            q.e = &e;
            q.out = p[P_OUT];
            q.img_rows = IMG_ROWS;
#if LATE
            q.late = &late;
#endif
            q.zero = zero + 128 * FLIP;
            q.first = kb == 0, q.last = kb + KC >= KTOTAL;
            q.len = KTOTAL - kb < KC ? KTOTAL - kb : KC;
            if (MODE == COPIED) {
              q.a = panel + (t - tb) * MR * PANEL_LD + kb;
            } else if (MRT < 0 && q.valid < MR) {
              gather(panel, x, m, q.pix, q.valid);
              q.a = panel + kb;
            } else if (MODE == BAND) {
              q.row_step = DH * BAND_ROW((PAD_L) + m.iw + (PAD_R));
              q.a = (const float *)((const char *)(band + (row - band_row) * SH * BAND_ROW((PAD_L) + m.iw + (PAD_R))) + col * STEP);
            } else if (MODE == ROWS) {
              q.row_step = DH * m.iw * XLDW;
              q.a = (const float *)(x + ((row / m.oh * m.ih + row % m.oh * SH) * m.iw + col * SW) * XLD) + kb;
            } else {
              q.a = (const float *)(x + q.pix * XLD) + kb;
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
              /* Once the next panel is fetched, its last lines again: what lies behind it would only displace. */
              const int64_t span = PFL * 64 * (q.len / UK);
              q.next = later < later_end ? later : later_end - span;
              later += span;
#if MRT < 0
              if (q.valid < MR) { CALL(tile_panel_part); continue; }
#endif
#if MODE == COPIED
#if MRT > 0
              if (q.valid < MR) { CALL(tile_panel_last); continue; }
#endif
              CALL(tile_panel);
#else
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
#if LATE
  flush(&late);
#endif
}
