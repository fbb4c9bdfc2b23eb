/* Any 2-D or 3-D transposed convolution, straight from its definition: output (od, oh, ow) collects input (id, ih, iw) and tap
 * (kd, kh, kw) where oh + PAD_T == ih SH + kh DH, and the same for depth and columns. Weights stay [KD, KH, KW, C, OCG].
 *
 * Defined by the tactic (dimensions may read v[]): BATCH ID IH IW OD OH OW (an image has depth 1); static: ICG OCG GROUPS KD KH KW
 * SD SH SW DD DH DW PAD_F PAD_T PAD_L XLD OLD BIAS (0 or 1) P_OUT DEPTHWISE (ICG and OCG are 1: lanes are channels; otherwise lanes are a group's output channels). */

/* The input index that meets tap k at output o, or -1. */
INLINE int64_t meets(int64_t o, int64_t k, int64_t stride, int64_t size)
{
    const int64_t at = o - k;
    return at < 0 || at % stride != 0 || at / stride >= size ? -1 : at / stride;
}

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts)
{
    (void)v;
    const float *x = p[0], *w = p[1];
    const int64_t id = ID, ih = IH, iw = IW, od = OD, oh = OH, ow = OW;
    const int64_t width = DEPTHWISE ? GROUPS : OCG, sets = DEPTHWISE ? 1 : GROUPS;
    epi_t e;
    epi_init(&e, p);
    int64_t pix, end;
    share((int64_t)(BATCH) * od * oh * ow, part, parts, &pix, &end);
    for (; pix < end; pix++) {
        const int64_t row = pix / ow, plane = row / oh, img = plane / od;
        for (int64_t g = 0; g < sets; g++)
            for (int64_t j = 0; j < width; j += VL) {
                const int n = width - j < VL ? (int)(width - j) : VL;
                const int64_t c = g * width + j;
#if BIAS
                vf acc = ldx((const float *)p[2] + c, n);
#else
                vf acc = {};
#endif
                for (int64_t kd = 0; kd < KD; kd++) {
                    const int64_t d = meets(plane % od + PAD_F, kd * DD, SD, id);
                    if (d < 0)
                        continue;
                    for (int64_t kh = 0; kh < KH; kh++) {
                        const int64_t h = meets(row % oh + PAD_T, kh * DH, SH, ih);
                        if (h < 0)
                            continue;
                        for (int64_t kw = 0; kw < KW; kw++) {
                            const int64_t at = meets(pix % ow + PAD_L, kw * DW, SW, iw);
                            if (at < 0)
                                continue;
                            const float *pixel = x + (((img * id + d) * ih + h) * iw + at) * XLD;
                            const float *tap = w + ((kd * KH + kh) * KW + kw) * ((int64_t)ICG * GROUPS * OCG);
#if DEPTHWISE
                            acc = FMA(ldx(pixel + c, n), ldx(tap + c, n), acc);
#else
                            for (int64_t k = g * ICG; k < (g + 1) * ICG; k++)
                                acc = FMA(splat(pixel[k]), ldx(tap + k * OCG + j, n), acc);
#endif
                        }
                    }
                }
                stx((float *)p[P_OUT] + pix * OLD + c, epilogue(acc, &e, img, pix, c, n), n);
            }
    }
}
