/* Reductions. Generated: NEST(at, body), which runs body once for every index of the outer reduced axes with `at` its offset, and
 * origin(u, v), the input offset of output u (KEEP_INNER: of output row u).
 *
 * KEEP_INNER 1: the last input axis is kept; CB vectors of it are reduced over COUNT steps of STEP elements.
 * KEEP_INNER 0: the last input axis is reduced; COUNT neighbouring elements, then a fixed tree over the lanes.
 * Order of additions is fixed by the shape alone: four interleaved partials over at most RUN terms, joined, then added to the total,
 * which bounds the error by about (RUN/4 + length/RUN) roundings. KIND picks the operation; INITIAL is its identity. */
#define UNROLL _Pragma("clang loop unroll(full)")
#define SUM 0
#define MAX 1
#define MIN 2
#define PROD 3
#define ABS_SUM 4
#define SQUARE_SUM 5
#define EXP_SUM 6
#define RUN 256

INLINE vf step(int kind, vf acc, vf x, vf shift) {
  return kind == SUM ? acc + x : kind == MAX ? v_max(acc, x) : kind == MIN ? v_min(acc, x) : kind == PROD ? acc * x
       : kind == ABS_SUM ? acc + v_abs(x) : kind == SQUARE_SUM ? FMA(x, x, acc) : acc + v_exp(x - shift);
}
INLINE vf join(int kind, vf a, vf b) {
  return kind == MAX ? v_max(a, b) : kind == MIN ? v_min(a, b) : kind == PROD ? a * b : a + b;
}
INLINE vf identity(int kind) {
  return splat(kind == MAX ? -V_INF : kind == MIN ? V_INF : kind == PROD ? 1.0f : 0.0f);
}
INLINE float join_lanes(int kind, vf v) {
  if (kind == MAX || kind == MIN || kind == PROD) {
    vf a = splat(v[0]);
    for (int i = 1; i < VL; i++) a = join(kind, a, splat(v[i]));
    return a[0];
  }
  return hsum(v);
}

#if KEEP_INNER
#define VECTORS ((WIDTH + VL - 1) / VL)
#define BLOCKS ((VECTORS + CB - 1) / CB)

INLINE void reduce(int kind, const float *x, const int64_t *v, const vf *shift, vf *total, int nv, int n_last) {
  const int64_t count = COUNT, stride = STEP;
  UNROLL for (int c = 0; c < CB; c++) total[c] = identity(kind);
  NEST(at, {
    for (int64_t r0 = 0; r0 < count; r0 += RUN) {
      const int64_t r1 = r0 + RUN < count ? r0 + RUN : count;
      const float *q = x + at + r0 * stride;
      vf a[4][CB];
      UNROLL for (int i = 0; i < 4; i++) UNROLL for (int c = 0; c < CB; c++) a[i][c] = identity(kind);
      int64_t r = r0;
      for (; r + 4 <= r1; r += 4, q += 4 * stride)
        UNROLL for (int i = 0; i < 4; i++) UNROLL for (int c = 0; c < CB; c++) if (c < nv)
          a[i][c] = step(kind, a[i][c], ldx(q + i * stride + c * VL, c == nv - 1 ? n_last : VL), shift[c]);
      for (; r < r1; r++, q += stride)
        UNROLL for (int c = 0; c < CB; c++) if (c < nv)
          a[0][c] = step(kind, a[0][c], ldx(q + c * VL, c == nv - 1 ? n_last : VL), shift[c]);
      UNROLL for (int c = 0; c < CB; c++)
        total[c] = join(kind, total[c], join(kind, join(kind, a[0][c], a[2][c]), join(kind, a[1][c], a[3][c])));
    }
  })
}

INLINE void unit(const float *x, float *out, const epi_t *e, const int64_t *v, int64_t u, int64_t c0, int nv, int n_last) {
  vf total[CB], shift[CB];
  UNROLL for (int c = 0; c < CB; c++) shift[c] = (vf){};
#if KIND == EXP_SUM
  reduce(MAX, x + c0, v, shift, total, nv, n_last);
  UNROLL for (int c = 0; c < CB; c++) shift[c] = sel(v_abs(total[c]) < splat(V_INF), total[c], (vf){});
#endif
  reduce(KIND, x + c0, v, shift, total, nv, n_last);
  UNROLL for (int c = 0; c < CB; c++) if (c < nv) {
    const int n = c == nv - 1 ? n_last : VL;
    vf r = FINISH(total[c], shift[c]);
    stx(out + u * OLD + c0 + c * VL, epilogue(r, e, u / PIXELS, u, c0 + c * VL, n), n);
  }
}

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  epi_t e;
  epi_init(&e, p);
  int64_t lo, hi;
  share((int64_t)(OUTPUTS) * BLOCKS, part, parts, &lo, &hi);
  for (int64_t k = lo; k < hi; k++) {
    const int64_t b = k % BLOCKS, u = k / BLOCKS;
    const float *x = (const float *)p[0] + origin(u, v);
    if (b < BLOCKS - 1) unit(x, (float *)p[1], &e, v, u, b * CB * VL, CB, VL);
    else unit(x, (float *)p[1], &e, v, u, b * CB * VL, VECTORS - (BLOCKS - 1) * CB, WIDTH - (VECTORS - 1) * VL);
  }
}
#else
INLINE float reduce(int kind, const float *x, const int64_t *v, vf shift) {
  const int64_t count = COUNT;
  vf total = identity(kind);
  NEST(at, {
    for (int64_t r0 = 0; r0 < count; r0 += RUN * VL) {
      const int64_t r1 = r0 + RUN * VL < count ? r0 + RUN * VL : count;
      const float *q = x + at;
      vf a[4];
      UNROLL for (int i = 0; i < 4; i++) a[i] = identity(kind);
      int64_t r = r0;
      for (; r + 4 * VL <= r1; r += 4 * VL)
        UNROLL for (int i = 0; i < 4; i++) a[i] = step(kind, a[i], ld(q + r + i * VL), shift);
      for (; r + VL <= r1; r += VL) a[0] = step(kind, a[0], ld(q + r), shift);
      if (r < r1) {
        const int n = (int)(r1 - r);
        a[1] = sel(iota() < splati(n), step(kind, a[1], ldn(q + r, n), shift), a[1]);
      }
      total = join(kind, total, join(kind, join(kind, a[0], a[2]), join(kind, a[1], a[3])));
    }
  })
  return join_lanes(kind, total);
}

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  epi_t e;
  epi_init(&e, p);
  int64_t lo, hi;
  share((int64_t)(OUTPUTS), part, parts, &lo, &hi);
  for (int64_t u = lo; u < hi; u++) {
    const float *x = (const float *)p[0] + origin(u, v);
    vf shift = {};
#if KIND == EXP_SUM
    const float top = reduce(MAX, x, v, shift);
    shift = splat(__builtin_elementwise_abs(top) < V_INF ? top : 0.0f);
#endif
    vf r = FINISH(splat(reduce(KIND, x, v, shift)), shift);
    const int64_t pix = u / LAST, c = u % LAST;
    stn((float *)p[1] + pix * OLD + c, epilogue(r, &e, pix / PIXELS, pix, c, 1), 1);
  }
}
#endif
