/* What the kernels of attention share: keys in blocks of NB registers, E columns of values as EV registers, and turning.
 * Defined by the tactic: E. */
#define UNROLL _Pragma("clang loop unroll(full)")
#define NB 2
#define W (NB * VL)
#define EV ((E + VL - 1) / VL)
#define ROUND_UP(n, by) (((n) + (by) - 1) / (by) * (by))
#define LEAST(a, b) ((a) < (b) ? (a) : (b))
#define ELAST (E - (EV - 1) * VL)
#define EODD (EV % NB)

/* VL rows of VL columns turned: log2(VL) rounds of interleaving the halves. */
INLINE void turn(vf r[VL]) {
  UNROLL for (int round = 1; round < VL; round *= 2) {
    vf t[VL];
    UNROLL for (int i = 0; i < VL / 2; i++) {
      vf a = r[i], b = r[i + VL / 2];
#if VL == 16
      t[2 * i] = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      t[2 * i + 1] = __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif VL == 8
      t[2 * i] = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
      t[2 * i + 1] = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#else
      t[2 * i] = __builtin_shufflevector(a, b, 0, 4, 1, 5);
      t[2 * i + 1] = __builtin_shufflevector(a, b, 2, 6, 3, 7);
#endif
    }
    UNROLL for (int i = 0; i < VL; i++) r[i] = t[i];
  }
}
