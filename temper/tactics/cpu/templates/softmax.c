/* Softmax and log-softmax over COUNT elements; exponentials wait in this thread's workspace, so that the output may share memory with
 * the input or with an operand of the epilogue.
 *
 * LAST_AXIS 1: a line is a contiguous row. LAST_AXIS 0: VL neighbouring lines at a time, elements STEP apart; WIDTH lines side by side.
 * A line whose elements are all -inf gives NaN, as 0/0 does. v_maxr may pass over a NaN: its own exponential then makes the sum NaN. origin(u, v): offset of row u (LAST_AXIS 0: of outer index u). */
#define UNROLL _Pragma("clang loop unroll(full)")

#if LAST_AXIS
INLINE vf load_or(const float *x, int64_t i, int64_t count, float fill) {
  if (i + VL <= count) return ld(x + i);
  return sel(iota() < splati((int)(count - i)), ldn(x + i, (int)(count - i)), splat(fill));
}

#if SHORT
/* A line of one register at most. */
INLINE void line(const float *x, float *out, float *ws, const epi_t *e, int64_t img, int64_t pix, int64_t count) {
  const int n = (int)count;
  const vf x0 = load_or(x, 0, n, -V_INF), a = x0 - lanes_maxr(x0), b = v_exp(a);
  const float sum = hsum(n == VL ? b : sel(iota() < splati(n), b, (vf){}));
  stx(out, epilogue(LOG ? a - v_log(splat(sum)) : b / splat(sum), e, img, pix, 0, n), n);
}
#else
INLINE void line(const float *x, float *out, float *ws, const epi_t *e, int64_t img, int64_t pix, int64_t count) {
  vf m[4], s[4];
  UNROLL for (int k = 0; k < 4; k++) m[k] = splat(-V_INF), s[k] = (vf){};
  int64_t i = 0;
  for (; i + 4 * VL <= count; i += 4 * VL) UNROLL for (int k = 0; k < 4; k++) m[k] = v_maxr(m[k], ld(x + i + k * VL));
  for (; i < count; i += VL) m[0] = v_maxr(m[0], load_or(x, i, count, -V_INF));
  const vf top = lanes_maxr(v_maxr(v_maxr(m[0], m[2]), v_maxr(m[1], m[3])));
  /* the workspace row is padded to whole vectors: lanes past the end hold e^-inf = 0 */
  for (i = 0; i + 4 * VL <= count; i += 4 * VL)
    UNROLL for (int k = 0; k < 4; k++) {
      vf a = ld(x + i + k * VL) - top, b = v_exp(a);
      s[k] += b;
      st(ws + i + k * VL, LOG ? a : b);
    }
  for (; i < count; i += VL) {
    vf a = load_or(x, i, count, -V_INF) - top, b = v_exp(a);
    s[0] += i + VL <= count ? b : sel(iota() < splati((int)(count - i)), b, (vf){});
    st(ws + i, LOG ? a : b);
  }
  const float sum = hsum((s[0] + s[2]) + (s[1] + s[3]));
  const vf total = LOG ? v_log(splat(sum)) : splat(sum);
  for (i = 0; i + VL <= count; i += VL) {
    vf r = LOG ? ld(ws + i) - total : ld(ws + i) / total;
    st(out + i, epilogue(r, e, img, pix, i, VL));
  }
  if (i < count) {
    const int n = (int)(count - i);
    vf r = LOG ? ld(ws + i) - total : ld(ws + i) / total;
    stn(out + i, epilogue(r, e, img, pix, i, n), n);
  }
}
#endif

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  epi_t e;
  epi_init(&e, p);
  int64_t lo, hi;
  share((int64_t)(OUTPUTS), part, parts, &lo, &hi);
  for (int64_t u = lo; u < hi; u++)
    line((const float *)p[0] + origin(u, v), (float *)p[1] + u * OLD, (float *)p[P_WS], &e, u / PIXELS, u, COUNT);
}
#else
#define BLOCKS ((WIDTH + VL - 1) / VL)

INLINE void lines(const float *x, float *out, float *ws, const epi_t *e, const int64_t *v, int64_t u, int64_t c, int n) {
  const int64_t stride = STEP, count = COUNT, inner = INNER;
  vf top = splat(-V_INF), s[2] = {(vf){}, (vf){}};
  for (int64_t i = 0; i < count; i++) top = v_maxr(top, ldx(x + i * stride, n));
  for (int64_t i = 0; i < count; i++) {
    vf a = ldx(x + i * stride, n) - top, b = v_exp(a);
    s[i & 1] += b;
    st(ws + i * VL, LOG ? a : b);
  }
  const vf total = LOG ? v_log(s[0] + s[1]) : s[0] + s[1];
  for (int64_t i = 0; i < count; i++) {
    vf r = LOG ? ld(ws + i * VL) - total : ld(ws + i * VL) / total;
    const int64_t pix = (u / inner * count + i) * inner + u % inner;
    stx(out + pix * OLD + c, epilogue(r, e, pix / PIXELS, pix, c, n), n);
  }
}

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  epi_t e;
  epi_init(&e, p);
  int64_t lo, hi;
  share((int64_t)(OUTPUTS) * BLOCKS, part, parts, &lo, &hi);
  for (int64_t k = lo; k < hi; k++) {
    const int64_t b = k % BLOCKS, u = k / BLOCKS;
    const float *x = (const float *)p[0] + origin(u, v) + b * VL;
    if (b < BLOCKS - 1) lines(x, (float *)p[1], (float *)p[P_WS], &e, v, u, b * VL, VL);
    else lines(x, (float *)p[1], (float *)p[P_WS], &e, v, u, b * VL, WIDTH - (BLOCKS - 1) * VL);
  }
}
#endif
