/* Reductions over the lanes of a register that keep the result in every lane. Needs vec.h and vmath.h before it. */
#ifndef TEMPER_LANES_H
#define TEMPER_LANES_H

/* The largest lane, in every lane; NaN where any lane is. */
INLINE vf lanes_max(vf v) {
#if VL == 16
  v = v_max(v, __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
  v = v_max(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
  v = v_max(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
  return v_max(v, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
#elif VL == 8
  v = v_max(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3));
  v = v_max(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5));
  return v_max(v, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6));
#else
  v = v_max(v, __builtin_shufflevector(v, v, 2, 3, 0, 1));
  return v_max(v, __builtin_shufflevector(v, v, 1, 0, 3, 2));
#endif
}
#endif
