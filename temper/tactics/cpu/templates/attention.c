/* Attention: softmax(scale * Q K^T + mask) V for each (batch, head, block of QB queries), all in this thread's workspace.
 *
 * KB keys at a time, so that their scores stay in L1 (FlashAttention, Dao et al. 2022): one pass for the maximum and one for e^x and
 * the sum. Where a later block raises a row's maximum, its sum and results so far are multiplied by e^(old - new) (the online
 * softmax of Milakov and Gimelshein 2018); rows are divided by their sums when they are stored. Keys are packed once a head as
 * [block][D][NB*VL], and values as [T][E] where PACKV says so; heads that share keys are neighbours and reuse both. Q_AT K_AT V_AT
 * OUT_PIX MASK_AT(b, h, s) are given by the tactic: places of a row in elements, for OUT_PIX and OUT_C the row and column of the
 * output. LDS: elements of a row of scores. LATE: without a mask, a positive SCALE is applied where exponentials are taken.
 * CAUSAL: query i sees keys j <= i + T - S; blocks stop at the last key they see. SAFE: rows without a key become 0, else NaN. */
/* acc[i][j] += a[i*lda + k] * b[k*ldb + j*VL]; the last of the nb vectors has nl lanes. */
INLINE void product(vf acc[MR][NB], const float *a, int64_t lda, const float *b, int64_t ldb, int64_t len, const int mr, const int nb,
                    const int nl) {
#pragma clang loop unroll_count(4)
  for (int64_t k = 0; k < len; k++) {
    vf w[NB];
    UNROLL for (int j = 0; j < nb; j++) w[j] = ldx(b + k * ldb + j * VL, j == nb - 1 ? nl : VL);
    UNROLL for (int i = 0; i < mr; i++) {
      vf x = splat(a[i * lda + k]);
      UNROLL for (int j = 0; j < nb; j++) acc[i][j] = FMA(x, w[j], acc[i][j]);
    }
  }
}

INLINE void clear(vf acc[MR][NB]) {
  UNROLL for (int i = 0; i < MR; i++) UNROLL for (int j = 0; j < NB; j++) acc[i][j] = (vf){};
}

/* Scores of mr queries against the W keys of one packed block. */
INLINE void scores(float *s, const float *q, const float *keys, const int mr) {
  vf acc[MR][NB];
  clear(acc);
  product(acc, q, LDQ, keys, W, D, mr, NB, VL);
  UNROLL for (int i = 0; i < mr; i++) UNROLL for (int j = 0; j < NB; j++) st(s + i * LDS + j * VL, acc[i][j]);
}

/* What is known of one query after some keys: the greatest score, the sum of weights; times what results so far are multiplied. */
typedef struct {
  float top, total, factor;
} row_t;

/* Where results go. sofar: rows of the keys before this block, EV*VL wide; first, last: this block is the first or the last one. */
typedef struct {
  const epi_t *e;
  void *out;
  float *sofar;
  const row_t *rows;
  int64_t img, pix, c;
  int32_t first, last;
} place_t;

/* mr rows of the result, nb vectors of columns: weights times values, divided by the rows' sums after the last block. */
INLINE void values(const place_t *to, const float *s, const float *v, int64_t ldv, int64_t keys, const int mr, const int nb,
                   const int nl) {
  vf acc[MR][NB];
  if (to->first) clear(acc);
  else
    UNROLL for (int i = 0; i < mr; i++)
      UNROLL for (int j = 0; j < nb; j++) acc[i][j] = ld(to->sofar + (i * EV + j) * VL) * splat(to->rows[i].factor);
  product(acc, s, LDS, v, ldv, keys, mr, nb, nl);
  if (!to->last) {
    UNROLL for (int i = 0; i < mr; i++) UNROLL for (int j = 0; j < nb; j++) st(to->sofar + (i * EV + j) * VL, acc[i][j]);
    return;
  }
  UNROLL for (int i = 0; i < mr; i++) {
    const float total = to->rows[i].total, inverse = SAFE && total == 0.0f ? 0.0f : 1.0f / total;
    UNROLL for (int j = 0; j < nb; j++) {
      const int n = j == nb - 1 ? nl : VL;
      const int64_t pix = to->pix + i, c = to->c + j * VL;
      epi_store(to->out, pix * OLD + c, epilogue(acc[i][j] * splat(inverse), to->e, to->img, pix, c, n), n);
    }
  }
}

INLINE void values_row(place_t to, const float *s, const float *v, int64_t ldv, int64_t keys, const int mr) {
  const int whole = EODD ? EV / NB : (ELAST < VL ? EV / NB - 1 : EV / NB);
  for (int b = 0; b < whole; b++, to.c += W, to.sofar += W) values(&to, s, v + b * W, ldv, keys, mr, NB, VL);
  if (whole * NB < EV) values(&to, s, v + whole * W, ldv, keys, mr, EV - whole * NB, ELAST);
}

/* Weights, before division, of `count` neighbouring queries for one block of keys. mask: of each query, at the block's first key;
 * seen: how many of the block's keys each one sees; keys: how many there are; width: lanes to fill. */
INLINE void weigh(float *s, row_t *rows, const float *const *mask, const int64_t *seen, int64_t keys, int64_t width, const int count) {
  (void)mask, (void)keys;
  vf top[2], sum[2], shift[2];
  UNROLL for (int i = 0; i < count; i++) top[i] = splat(-V_INF), sum[i] = (vf){};
  for (int64_t j = 0; j < width; j += VL) {
    UNROLL for (int i = 0; i < count; i++) {
      float *at = s + i * LDS + j;
      vf x = ld(at);
      const int hide = j + VL > seen[i];
#if !LATE
      x *= splat(SCALE);
#endif
#if MASK
      const int n = (int)LEAST(keys - j, VL);
      x += ldx(mask[i] + j, n < 0 ? 0 : n);
#endif
      if (hide) x = sel(iota() < splati((int)(seen[i] - j)), x, splat(-V_INF));
      if (!LATE || hide) st(at, x);
      top[i] = v_maxr(x, top[i]); /* a NaN is met again below */
    }
  }
  UNROLL for (int i = 0; i < count; i++) {
    const float unit = LATE ? SCALE : 1.0f, old = rows[i].top, m = lanes_max(top[i])[0];
    const float best = m > old ? m : old, base = best == -V_INF ? 0.0f : best * unit;
    rows[i].factor = old == -V_INF ? 0.0f : v_exp(splat(old * unit - base))[0];
    rows[i].top = best;
    shift[i] = splat(-base);
  }
  for (int64_t j = 0; j < width; j += VL) {
    UNROLL for (int i = 0; i < count; i++) {
      float *at = s + i * LDS + j;
      vf x = ld(at);
#if LATE
      x = FMA(x, splat(SCALE), shift[i]);
#else
      x += shift[i];
#endif
      x = v_exp_within(v_maxr(splat(-104.0f), x));
      st(at, x);
      sum[i] += x;
    }
  }
  UNROLL for (int i = 0; i < count; i++) rows[i].total = rows[i].total * rows[i].factor + hsum(sum[i]);
}

/* Keys as [block][D][W]; those behind the last are zeros. */
INLINE void pack_keys(float *to, const float *k, int64_t t) {
  for (int64_t j = 0; j < t; j += VL) {
    float *block = to + j / W * (D * W) + j % W;
    for (int d = 0; d < D; d += VL) {
      const int n = D - d < VL ? D - d : VL;
      vf r[VL];
      UNROLL for (int i = 0; i < VL; i++) r[i] = j + i < t ? ldx(k + (j + i) * LDK + d, n) : (vf){};
      turn(r);
      UNROLL for (int i = 0; i < VL; i++) if (i < n) st(block + (d + i) * W, r[i]);
    }
  }
  if (t % W != 0 && t % W <= W - VL)
    for (int64_t j = ROUND_UP(t, VL); j < ROUND_UP(t, W); j += VL)
      for (int d = 0; d < D; d++) st(to + j / W * (D * W) + j % W + d * W, (vf){});
}

INLINE void pack_values(float *to, const float *v, int64_t t) {
  for (int64_t j = 0; j < t; j++)
    UNROLL for (int e = 0; e < EV; e++) st(to + (j * EV + e) * VL, ldx(v + j * LDV + e * VL, e == EV - 1 ? ELAST : VL));
}

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  (void)v;
  epi_t e;
  epi_init(&e, p);
  const int64_t rows = SQ, t = SK, tp = ROUND_UP(t, W), blocks = (rows + QB - 1) / QB;
  float *s = p[P_WS], *sofar = s + QB * (int64_t)LDS, *keys = sofar + QB * EV * VL, *vals = keys + D * tp;
  const float *q = p[0], *k = p[1], *val = p[2];
  int64_t lo, hi, packed = -1;
  share((int64_t)(BATCH) * HEADS * blocks, part, parts, &lo, &hi);
  for (int64_t u = lo; u < hi; u++) {
    const int64_t b = u / blocks / HEADS, h = u / blocks % HEADS, first = u % blocks * QB, n = LEAST(rows - first, QB);
    const int64_t g = h / (HEADS / KV_HEADS);
    if (packed != b * KV_HEADS + g) {
      packed = b * KV_HEADS + g;
      pack_keys(keys, k + K_AT(b, g, 0), t);
      if (PACKV) pack_values(vals, val + V_AT(b, g, 0), t);
    }
    const float *vh = PACKV ? vals : val + V_AT(b, g, 0);
    const int64_t ldv = PACKV ? EV * VL : LDV, shift = t - rows + 1;
    int64_t seen = CAUSAL ? LEAST(t, first + n + t - rows) : t;
    if (seen < 0) seen = 0;
    row_t known[QB];
    for (int64_t i = 0; i < n; i++) known[i] = (row_t){-V_INF, 0.0f, 0.0f};
    int64_t at = 0;
    do { /* once where no key is seen, for the rows' zeros or NaN */
      const int64_t here = LEAST(seen - at, KB);
      for (int64_t j = 0; j < here; j += W) {
        const float *qr = q + Q_AT(b, h, first), *kb = keys + (at + j) * D;
        int64_t i = 0;
        for (; i + MR <= n; i += MR) scores(s + i * LDS + j, qr + i * LDQ, kb, MR);
        if (MR > 4 && n - i >= 4) scores(s + i * LDS + j, qr + i * LDQ, kb, 4), i += 4;
        if (n - i >= 2) scores(s + i * LDS + j, qr + i * LDQ, kb, 2), i += 2;
        if (n - i >= 1) scores(s + i * LDS + j, qr + i * LDQ, kb, 1);
      }
      for (int64_t i = 0; i < n; i += 2) {
        int64_t mine[2];
        const float *mask[2] = {0, 0};
        for (int64_t l = 0; l < 2 && i + l < n; l++) {
          mine[l] = (CAUSAL ? LEAST(t, first + i + l + shift) : t) - at;
          if (MASK) mask[l] = (const float *)p[P_MASK] + MASK_AT(b, h, first + i + l) + at;
        }
        if (i + 2 <= n) weigh(s + i * LDS, known + i, mask, mine, t - at, ROUND_UP(here, VL), 2);
        else weigh(s + i * LDS, known + i, mask, mine, t - at, ROUND_UP(here, VL), 1);
      }
      place_t to = {&e, p[P_OUT], sofar, known, b, OUT_PIX(b, h, first), OUT_C(h), at == 0, at + KB >= seen};
      const float *vb = vh + at * ldv;
      int64_t i = 0;
#define ROWS(mr) values_row(to, s + i * LDS, vb, ldv, here, mr), i += mr, to.pix += mr, to.rows += mr, to.sofar += mr * EV * VL
      while (i + MR <= n) ROWS(MR);
      if (MR > 4 && n - i >= 4) ROWS(4);
      if (n - i >= 2) ROWS(2);
      if (n - i >= 1) ROWS(1);
      at += KB;
    } while (at < seen);
  }
}
