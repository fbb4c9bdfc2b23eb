/* Reductions of float64, integers and bool, one output at a time. Generated: NEST(at, body), which runs body once for every index of
 * the outer reduced axes with `at` its offset, and origin(u, v), the input offset of output u.
 *
 * T: element type; A: accumulator (uint64_t for sums of integers: they wrap as any narrower type does). ADD(t, x): t with one more
 * element; START: its identity; FINISH(t): the result. SHIFTED 1: sums of e^(x - s), s the largest element where that is finite. */
INLINE A total(const T *x, const int64_t *v, double s) {
  const int64_t count = COUNT, stride = STEP;
  A t = START;
  (void)v, (void)s;
  NEST(at, {
    for (int64_t i = 0; i < count; i++) t = ADD(t, x[at + i * stride]);
  })
  return t;
}

#if SHIFTED
INLINE double largest(const T *x, const int64_t *v) {
  const int64_t count = COUNT, stride = STEP;
  double t = -D_INF;
  (void)v;
  NEST(at, {
    for (int64_t i = 0; i < count; i++) t = v_max(t, (double)x[at + i * stride]);
  })
  return d_abs(t) < D_INF ? t : 0;
}
#endif

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  int64_t lo, hi;
  share((int64_t)(OUTPUTS), part, parts, &lo, &hi);
  for (int64_t u = lo; u < hi; u++) {
    const T *x = (const T *)p[0] + origin(u, v);
#if SHIFTED
    const double s = largest(x, v);
#else
    const double s = 0;
#endif
    const A t = total(x, v, s);
    ((T *)p[1])[u] = (T)FINISH(t);
  }
}
