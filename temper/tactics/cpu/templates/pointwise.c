/* Blocked loops around a generated elementwise chain.
 *
 * OUTER, ROWS, INNER: sizes of the collapsed iteration space (expressions over v). BLOCK: elements per unit of work, about.
 * rows(p, v, block, r0, r1, i0, i1): computes rows [r0, r1) x elements [i0, i1) of outer index `block`. */
EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  const int64_t outer = OUTER, nrows = ROWS, inner = INNER;
  if (inner <= 0 || nrows <= 0) return;
  const int64_t width = inner > 2 * BLOCK ? BLOCK : inner;
  const int64_t height = width >= BLOCK ? 1 : BLOCK / width;
  const int64_t wide = (inner + width - 1) / width, high = (nrows + height - 1) / height;
  int64_t lo, hi;
  share(outer * high * wide, part, parts, &lo, &hi);
  for (int64_t u = lo; u < hi; u++) {
    const int64_t i0 = u % wide * width, t = u / wide, r0 = t % high * height;
    rows(p, v, t / high, r0, r0 + height < nrows ? r0 + height : nrows, i0, i0 + width < inner ? i0 + width : inner);
  }
}
