/* Any convolution, straight from its definition: lanes are output channels of one group, weights stay in HWIO order.
 *
 * Defined by the tactic (dimensions may read v[]): BATCH IH IW OH OW; static: ICG OCG GROUPS KH KW SH SW DH DW PAD_T PAD_L XLD OLD
 * BIAS (0 or 1) P_OUT. p: x, weights[, bias], epilogue operands, outputs. */

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  (void)v;
  const float *x = p[0], *w = p[1];
  const int64_t ih = IH, iw = IW, oh = OH, ow = OW;
  const int64_t oc = (int64_t)GROUPS * OCG;
  epi_t e;
  epi_init(&e, p);
  int64_t pix, end;
  share((int64_t)(BATCH) * oh * ow, part, parts, &pix, &end);
  for (; pix < end; pix++) {
    const int64_t row = pix / ow, img = row / oh, h = row % oh * SH - PAD_T, at = pix % ow * SW - PAD_L;
    for (int64_t g = 0; g < GROUPS; g++)
      for (int64_t j = 0; j < OCG; j += VL) {
        const int n = OCG - j < VL ? (int)(OCG - j) : VL;
        const int64_t c = g * OCG + j;
#if BIAS
        vf acc = ldx((const float *)p[2] + c, n);
#else
        vf acc = {};
#endif
        for (int64_t kh = 0; kh < KH; kh++) {
          if (h + kh * DH < 0 || h + kh * DH >= ih) continue;
          for (int64_t kw = 0; kw < KW; kw++) {
            if (at + kw * DW < 0 || at + kw * DW >= iw) continue;
            const float *a = x + ((img * ih + h + kh * DH) * iw + at + kw * DW) * XLD + g * ICG;
            const float *b = w + (kh * KW + kw) * ICG * oc + c;
            for (int64_t k = 0; k < ICG; k++) acc = FMA(splat(a[k]), ldx(b + k * oc, n), acc);
          }
        }
        stx((float *)p[P_OUT] + pix * OLD + c, epilogue(acc, &e, img, pix, c, n), n);
      }
  }
}
