/* Max and average pooling over channels-last windows: one output pixel at a time, CB vectors of channels in registers.
 *
 * AVERAGE: 0 max (NaN propagates), 1 mean over the elements inside the image, 2 mean that counts the stated padding too.
 * A unit of work is one output row of one block of CB*VL channels; sums run in window order. */
#define UNROLL _Pragma("clang loop unroll(full)")
#define VECTORS ((C + VL - 1) / VL)
#define BLOCKS ((VECTORS + CB - 1) / CB)
#define TAIL_CB (VECTORS - (BLOCKS - 1) * CB)
#define TAIL_LANES (C - (VECTORS - 1) * VL)

/* Kernel positions k of a window starting at `start` that fall into [low, high): [*k0, *k1). */
INLINE void inside(int64_t start, int64_t step, int64_t count, int64_t low, int64_t high, int64_t *k0, int64_t *k1) {
  int64_t a = start >= low ? 0 : (low - start + step - 1) / step;
  int64_t b = start >= high ? 0 : (high - start + step - 1) / step;
  if (b > count) b = count;
  *k0 = a < b ? a : b;
  *k1 = b;
}

INLINE void row(const float *x, float *out, const epi_t *e, int64_t img, int64_t pix0, int64_t oy, int64_t ih, int64_t iw, int64_t ow,
                int64_t c, int nv, int nl) {
  int64_t y0, y1, py0, py1;
  const int64_t top = oy * SH - PAD_T;
  inside(top, DH, KH, 0, ih, &y0, &y1);
  inside(top, DH, KH, -PAD_T, ih + PAD_B, &py0, &py1);
  for (int64_t ox = 0; ox < ow; ox++) {
    int64_t x0, x1, px0, px1;
    const int64_t left = ox * SW - PAD_L;
    inside(left, DW, KW, 0, iw, &x0, &x1);
    vf acc[CB];
    UNROLL for (int v = 0; v < CB; v++) acc[v] = AVERAGE ? (vf){} : splat(-V_INF);
    for (int64_t ky = y0; ky < y1; ky++) {
      const float *p = x + ((top + ky * DH) * iw + left + x0 * DW) * XLD + c;
      for (int64_t kx = x0; kx < x1; kx++, p += DW * XLD) {
        UNROLL for (int v = 0; v < CB; v++) if (v < nv) {
          vf a = ldx(p + v * VL, v == nv - 1 ? nl : VL);
          acc[v] = AVERAGE ? acc[v] + a : v_max(acc[v], a);
        }
      }
    }
#if AVERAGE
    int64_t count = (y1 - y0) * (x1 - x0);
    if (AVERAGE == 2) {
      inside(left, DW, KW, -PAD_L, iw + PAD_R, &px0, &px1);
      count = (py1 - py0) * (px1 - px0);
    }
    const vf divisor = splat((float)count);
#else
    (void)px0, (void)px1;
#endif
    UNROLL for (int v = 0; v < CB; v++) if (v < nv) {
      const int n = v == nv - 1 ? nl : VL;
#if AVERAGE
      acc[v] /= divisor;
#endif
      stx(out + (oy * ow + ox) * OLD + c + v * VL, epilogue(acc[v], e, img, pix0 + oy * ow + ox, c + v * VL, n), n);
    }
  }
}

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  const int64_t ih = IH, iw = IW, oh = OH, ow = OW;
  epi_t e;
  epi_init(&e, p);
  int64_t lo, hi;
  if (oh <= 0 || ow <= 0) return;
  share((int64_t)BATCH * oh * BLOCKS, part, parts, &lo, &hi);
  for (int64_t u = lo; u < hi; u++) {
    const int64_t b = u % BLOCKS, t = u / BLOCKS, oy = t % oh, img = t / oh, c = b * CB * VL;
    const float *x = (const float *)p[0] + img * (ih * iw * XLD);
    float *out = (float *)p[1] + img * (oh * ow * OLD);
    if (b < BLOCKS - 1) row(x, out, &e, img, img * oh * ow, oy, ih, iw, ow, c, CB, VL);
    else row(x, out, &e, img, img * oh * ow, oy, ih, iw, ow, c, TAIL_CB, TAIL_LANES);
  }
}
