/* Max pooling of 8-bit codes over channels-last windows: bytes in registers of 4 VL, one output pixel at a time.
 *
 * T: int8_t or uint8_t. Channels beyond the last whole register are read again with those before them, or one by one where there are
 * too few: the largest of a window does not mind being computed twice. Padding never wins; a window without any element inside gives LOWEST. */
#define W (4 * VL)
typedef T vt __attribute__((vector_size(W)));
typedef T vt_any __attribute__((vector_size(W), aligned(1), may_alias));

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  const int64_t ih = IH, iw = IW, oh = OH, ow = OW;
  int64_t lo, hi;
  (void)v;
  share((int64_t)(BATCH) * oh, part, parts, &lo, &hi);
  for (int64_t u = lo; u < hi; u++) {
    const int64_t img = u / oh, top = u % oh * SH - PAD_T;
    const T *x = (const T *)p[0] + img * (ih * iw * XLD);
    for (int64_t ox = 0; ox < ow; ox++) {
      const int64_t left = ox * SW - PAD_L;
      T *out = (T *)p[1] + (u * ow + ox) * OLD;
      for (int64_t c = 0; c < C; c += W) {
        const int64_t at = C < W ? 0 : c + W <= C ? c : C - W;
        vt best = (T)LOWEST - (vt){};
        T few[W];
        if (C < W) __builtin_memset(few, (T)LOWEST, W);
        for (int64_t ky = 0; ky < KH; ky++) {
          const int64_t y = top + ky * DH;
          if (y < 0 || y >= ih) continue;
          for (int64_t kx = 0; kx < KW; kx++) {
            const int64_t xx = left + kx * DW;
            if (xx < 0 || xx >= iw) continue;
            const T *from = x + (y * iw + xx) * XLD + at;
            if (C < W) {
              for (int k = 0; k < C; k++) few[k] = from[k] > few[k] ? from[k] : few[k];
            } else {
              best = __builtin_elementwise_max(best, (vt)*(const vt_any *)from);
            }
          }
        }
        if (C < W) __builtin_memcpy(out, few, C);
        else *(vt_any *)(out + at) = best;
      }
    }
  }
}
