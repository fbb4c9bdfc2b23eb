/* COUNT elements START, START + DELTA, START + 2 DELTA ..; A is the type they are computed in. */
EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  T *out = p[0];
  const A start = (A)(START), delta = (A)(DELTA);
  int64_t lo, hi;
  share(COUNT, part, parts, &lo, &hi);
  for (int64_t i = lo; i < hi; i++) out[i] = (T)((A)i * delta + start);
}
