/* Position of the largest (BETTER >) or smallest (BETTER <) element along one axis; a NaN beats everything, the first one wins.
 * LAST_INDEX: of equal extremes the last wins. origin(u, v): input offset of output u. */
EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  const int64_t count = COUNT, stride = STEP;
  int64_t lo, hi;
  share((int64_t)(OUTPUTS), part, parts, &lo, &hi);
  for (int64_t u = lo; u < hi; u++) {
    const TYPE *x = (const TYPE *)p[0] + origin(u, v);
    const int64_t start = LAST_INDEX ? count - 1 : 0, by = LAST_INDEX ? -1 : 1;
    int64_t at = start;
    TYPE best = x[start * stride];
    for (int64_t k = 1; k < count && best == best; k++) {
      const int64_t i = start + k * by;
      const TYPE a = x[i * stride];
      if (a BETTER best || a != a) best = a, at = i;
    }
    ((int64_t *)p[1])[u] = at;
  }
}
