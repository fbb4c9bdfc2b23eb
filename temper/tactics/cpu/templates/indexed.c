/* GatherElements, GatherND, ScatterElements and ScatterND with indices known at run time.
 *
 * The data has RANK axes with sizes SIZES and strides STRIDES (elements); T is an element, INDEX an index.
 * GATHER_ELEMENTS, SCATTER_ELEMENTS: the indices have RANK axes with sizes SHAPE, their last one LAST; AXIS is the axis
 *   they address. LINES: indices / LAST.
 * GATHER_ND, SCATTER_ND: TUPLES tuples of DEPTH indices, each addressing RUN contiguous elements, after BATCH axes that tuples
 *   share in order (EACH tuples for every index of those). REDUCE(a, b): what becomes of element a under update b.
 * A negative index counts from the end. An index outside its axis, which ONNX forbids, gathers all-one bits and scatters nothing.
 * Scattering is done by one thread, in the order of the updates: they may meet in one element. */

INLINE int64_t wrapped(int64_t i, int64_t size) {
  i += i < 0 ? size : 0;
  return i >= 0 && i < size ? i : -1;
}

#if defined(GATHER_ELEMENTS) || defined(SCATTER_ELEMENTS)
/* Offset in the data of the first element of line `l` of the indices, less the part of the addressed axis. */
INLINE int64_t line_base(int64_t l, const int64_t *v) {
  (void)v;
  const int64_t shape[] = SHAPE, strides[] = STRIDES;
  int64_t base = 0;
  for (int a = RANK - 2; a >= 0; a--) {
    if (a != AXIS) base += l % shape[a] * strides[a];
    l /= shape[a];
  }
  return base;
}
#endif

#ifdef GATHER_ELEMENTS
EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  const T *x = p[0];
  const INDEX *index = p[1];
  T *y = p[2];
  const int64_t sizes[] = SIZES, strides[] = STRIDES, last = LAST, size = sizes[AXIS], step = strides[AXIS];
  (void)v;
  int64_t lo, hi;
  share(LINES, part, parts, &lo, &hi);
  for (int64_t l = lo; l < hi; l++) {
    const T *from = x + line_base(l, v);
    for (int64_t c = 0; c < last; c++) {
      const int64_t i = wrapped(index[l * last + c], size);
      y[l * last + c] = i < 0 ? (T)-1 : from[i * step + (AXIS == RANK - 1 ? 0 : c)];
    }
  }
}
#endif

#if defined(GATHER_ND) || defined(SCATTER_ND)
/* Offset in the data of tuple `t`, or -1. */
INLINE int64_t place(const INDEX *index, int64_t t, const int64_t *v) {
  (void)v;
  const int64_t sizes[] = SIZES, strides[] = STRIDES;
  int64_t at = 0, b = t / (EACH);
  for (int a = BATCH - 1; a >= 0; a--) {
    at += b % sizes[a] * strides[a];
    b /= sizes[a];
  }
  for (int k = 0; k < DEPTH; k++) {
    const int64_t i = wrapped(index[t * DEPTH + k], sizes[BATCH + k]);
    if (i < 0) return -1;
    at += i * strides[BATCH + k];
  }
  return at;
}
#endif

#ifdef GATHER_ND
EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  const T *x = p[0];
  T *y = p[2];
  const int64_t run = RUN;
  int64_t lo, hi;
  share(TUPLES, part, parts, &lo, &hi);
  for (int64_t t = lo; t < hi; t++) {
    const int64_t at = place(p[1], t, v);
    for (int64_t k = 0; k < run; k++) y[t * run + k] = at < 0 ? (T)-1 : x[at + k];
  }
}
#endif

#if defined(SCATTER_ND) || defined(SCATTER_ELEMENTS)
EXPORT void COPY(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  (void)v;
  const T *x = p[0];
  T *y = p[3];
  int64_t lo, hi;
  share(COUNT, part, parts, &lo, &hi);
  for (int64_t i = lo; i < hi; i++) y[i] = x[i];
}

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  (void)parts;
  if (part) return;
  const T *updates = p[2];
  T *y = p[3];
#ifdef SCATTER_ND
  const int64_t run = RUN, tuples = TUPLES;
  for (int64_t t = 0; t < tuples; t++) {
    const int64_t at = place(p[1], t, v);
    if (at >= 0)
      for (int64_t k = 0; k < run; k++) y[at + k] = REDUCE(y[at + k], updates[t * run + k]);
  }
#else
  const INDEX *index = p[1];
  const int64_t sizes[] = SIZES, strides[] = STRIDES, last = LAST, lines = LINES, size = sizes[AXIS], step = strides[AXIS];
  for (int64_t l = 0; l < lines; l++) {
    T *to = y + line_base(l, v);
    for (int64_t c = 0; c < last; c++) {
      const int64_t i = wrapped(index[l * last + c], size);
      T *one = to + i * step + (AXIS == RANK - 1 ? 0 : c);
      if (i >= 0) *one = REDUCE(*one, updates[l * last + c]);
    }
  }
#endif
}
#endif
