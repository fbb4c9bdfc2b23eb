/* Reductions over the lanes of a register that keep the result in every lane. Needs vec.h and vmath.h before it. */
#ifndef TEMPER_LANES_H
#define TEMPER_LANES_H

/* Lane i of a permutation that swaps halves of registers, then of their halves, and so on. */
#if VL == 16
#define LANES_8(v) __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7)
#define LANES_4(v) __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11)
#define LANES_2(v) __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13)
#define LANES_1(v) __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14)
#elif VL == 8
#define LANES_8(v) v
#define LANES_4(v) __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3)
#define LANES_2(v) __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5)
#define LANES_1(v) __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6)
#else
#define LANES_8(v) v
#define LANES_4(v) v
#define LANES_2(v) __builtin_shufflevector(v, v, 2, 3, 0, 1)
#define LANES_1(v) __builtin_shufflevector(v, v, 1, 0, 3, 2)
#endif
#define LANES(name, largest)                                          \
  INLINE vf name(vf v) {                                              \
    if (VL > 8) v = largest(v, LANES_8(v));                           \
    if (VL > 4) v = largest(v, LANES_4(v));                           \
    v = largest(v, LANES_2(v));                                       \
    return largest(v, LANES_1(v));                                    \
  }

LANES(lanes_max, v_max)   /* the largest lane, in every lane; NaN where any lane is */
LANES(lanes_maxr, v_maxr) /* as lanes_max, but may pass over a NaN */
#endif
