/* Squeeze-excite: channel means, two matrix-vector products, activation and gate in one kernel.
 *
 * C channels in, R hidden, F out; PIXELS spatial positions at stride XLD; OLD: the output's row stride. Generated: activation(v), gate(v).
 * Weights are streamed once, in order: w1 as [R/RB][C/VL][RB][VL] (dot products over channel lanes), w2 as [F/(FB*VL)][R][FB*VL];
 * rows, lanes and biases are padded with zeros. Order of additions is fixed by the shape: means as in reduce.c.
 * SPLIT 0: one entry, images are shared out, means and hidden values in the thread's workspace. SPLIT 1: an entry each for means,
 * hidden values and gates, every one shared out, with means and hidden sums of all images in the shared workspace. */
#define UNROLL _Pragma("clang loop unroll(full)")
#define CV ((C + VL - 1) / VL)
#define RP ((R + VL - 1) / VL * VL)
#define RBLOCKS ((R + RB - 1) / RB)
#define FV ((F + VL - 1) / VL)
#define FBLOCKS ((FV + FB - 1) / FB)
#define RUN 256

#define CBLOCKS ((CV + CB - 1) / CB)

/* Means of nv channel vectors, the last with n_last lanes; lanes behind become 0. */
INLINE void mean_block(const float *x, int64_t pixels, float *m, int nv, int n_last) {
  vf total[CB];
  UNROLL for (int c = 0; c < CB; c++) total[c] = (vf){};
  for (int64_t r0 = 0; r0 < pixels; r0 += RUN) {
    const int64_t r1 = r0 + RUN < pixels ? r0 + RUN : pixels;
    const float *q = x + r0 * XLD;
    vf a[4][CB];
    UNROLL for (int i = 0; i < 4; i++) UNROLL for (int c = 0; c < CB; c++) a[i][c] = (vf){};
    int64_t r = r0;
    for (; r + 4 <= r1; r += 4, q += 4 * XLD)
      UNROLL for (int i = 0; i < 4; i++) UNROLL for (int c = 0; c < CB; c++) if (c < nv)
        a[i][c] += ldx(q + i * XLD + c * VL, c == nv - 1 ? n_last : VL);
    for (; r < r1; r++, q += XLD)
      UNROLL for (int c = 0; c < CB; c++) if (c < nv) a[0][c] += ldx(q + c * VL, c == nv - 1 ? n_last : VL);
    UNROLL for (int c = 0; c < CB; c++) total[c] += (a[0][c] + a[2][c]) + (a[1][c] + a[3][c]);
  }
  UNROLL for (int c = 0; c < CB; c++) if (c < nv) st(m + c * VL, total[c] / splat((float)pixels));
}

/* Block b of means, at m + its first channel. */
INLINE void means(const float *x, int64_t pixels, float *m, int64_t b) {
  const int64_t at = b * CB * VL;
  if (b < CBLOCKS - 1) mean_block(x + at, pixels, m + at, CB, VL);
  else mean_block(x + at, pixels, m + at, CV - (CBLOCKS - 1) * CB, C - (CV - 1) * VL);
}

/* RB hidden sums without bias. */
INLINE void hidden(const float *m, const float *w1, float *h, int64_t b) {
  const float *w = w1 + b * (CV * RB * VL);
  vf a[2][RB];
  UNROLL for (int k = 0; k < 2; k++) UNROLL for (int i = 0; i < RB; i++) a[k][i] = (vf){};
  int64_t c = 0;
  for (; c + 2 <= CV; c += 2)
    UNROLL for (int k = 0; k < 2; k++) {
      vf x = ld(m + (c + k) * VL);
      UNROLL for (int i = 0; i < RB; i++) a[k][i] = FMA(x, ld(w + ((c + k) * RB + i) * VL), a[k][i]);
    }
  if (c < CV) {
    vf x = ld(m + c * VL);
    UNROLL for (int i = 0; i < RB; i++) a[0][i] = FMA(x, ld(w + (c * RB + i) * VL), a[0][i]);
  }
  UNROLL for (int i = 0; i < RB; i++) if (b * RB + i < RP) h[b * RB + i] = hsum(a[0][i] + a[1][i]);
}

INLINE void activate(const float *sums, const float *b1, float *h) {
  for (int r = 0; r < RP; r += VL) {
    const int n = R - r < VL ? R - r : VL;
    st(h + r, activation(ldx(sums + r, n) + ld(b1 + r)));
  }
}

/* One block of FB vectors of gates; the last may have fewer. */
INLINE void gates(const float *h, const float *w2, const float *b2, float *out, const epi_t *e, int64_t img, int64_t b) {
  const float *w = w2 + b * (R * FB * VL);
  vf a[2][FB];
  UNROLL for (int i = 0; i < FB; i++) {
    a[0][i] = ld(b2 + (b * FB + i) * VL);
    a[1][i] = (vf){};
  }
  int r = 0;
  for (; r + 2 <= R; r += 2)
    UNROLL for (int k = 0; k < 2; k++) {
      vf x = splat(h[r + k]);
      UNROLL for (int i = 0; i < FB; i++) a[k][i] = FMA(x, ld(w + ((r + k) * FB + i) * VL), a[k][i]);
    }
  if (r < R) {
    vf x = splat(h[r]);
    UNROLL for (int i = 0; i < FB; i++) a[0][i] = FMA(x, ld(w + (r * FB + i) * VL), a[0][i]);
  }
  UNROLL for (int i = 0; i < FB; i++) {
    const int64_t c = (b * FB + i) * VL;
    const int n = F - c < VL ? (int)(F - c) : VL;
    if (n > 0) stx(out + img * OLD + c, epilogue(gate(a[0][i] + a[1][i]), e, img, img, c, n), n);
  }
}

#define X ((const float *)p[0])
#define W1 ((const float *)p[1])
#define B1 ((const float *)p[2])
#define W2 ((const float *)p[3])
#define B2 ((const float *)p[4])
#define MINE ((float *)p[5])
#define OUT ((float *)p[6])

#if SPLIT
#define SHARED ((float *)p[7])
#define MEANS(img) (SHARED + (img) * (CV * VL + RP))
#define SUMS(img) (MEANS(img) + CV * VL)

EXPORT void MEAN_ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  int64_t lo, hi;
  share((int64_t)(BATCH) * CBLOCKS, part, parts, &lo, &hi);
  for (int64_t u = lo; u < hi; u++) means(X + u / CBLOCKS * ((int64_t)(PIXELS) * XLD), PIXELS, MEANS(u / CBLOCKS), u % CBLOCKS);
}
EXPORT void HIDDEN_ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  int64_t lo, hi;
  share((int64_t)(BATCH) * RBLOCKS, part, parts, &lo, &hi);
  for (int64_t u = lo; u < hi; u++) hidden(MEANS(u / RBLOCKS), W1, SUMS(u / RBLOCKS), u % RBLOCKS);
}
EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  epi_t e;
  epi_init(&e, p);
  int64_t lo, hi, last = -1;
  share((int64_t)(BATCH) * FBLOCKS, part, parts, &lo, &hi);
  for (int64_t u = lo; u < hi; u++) {
    const int64_t img = u / FBLOCKS;
    if (img != last) activate(SUMS(img), B1, MINE);
    last = img;
    gates(MINE, W2, B2, OUT, &e, img, u % FBLOCKS);
  }
}
#else
EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  epi_t e;
  epi_init(&e, p);
  float *m = MINE, *h = m + CV * VL;
  int64_t lo, hi;
  share(BATCH, part, parts, &lo, &hi);
  for (int64_t img = lo; img < hi; img++) {
    for (int64_t b = 0; b < CBLOCKS; b++) means(X + img * ((int64_t)(PIXELS) * XLD), PIXELS, m, b);
    for (int64_t b = 0; b < RBLOCKS; b++) hidden(m, W1, h, b);
    activate(h, B1, h);
    for (int64_t b = 0; b < FBLOCKS; b++) gates(h, W2, B2, OUT, &e, img, b);
  }
}
#endif
