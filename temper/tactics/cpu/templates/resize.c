/* Weighted resize over up to three axes: every output pixel is a fixed combination of T0 x T1 x T2 input pixels of C elements.
 *
 * Defined by the tactic: OUTER (images and other unresized axes before, may read v[]), I0..I2 and O0..O2 (sizes), T0..T2 (taps), C, XLD and
 * OLD (elements between pixels), IMG_ROWS (pixels per index of axis 0, for the epilogue), P_START P_WEIGHT P_OUT (arguments), WEIGHT_AT
 * (where weights begin in theirs), TAP(first, tap, size) (input index of a tap), SCALAR (C is 1 and there is no epilogue), CROP (a start
 * of -1 marks an output outside the cropped region, which gets OUTSIDE).
 * Tables: first input index per output index, then T weights per output index, axis after axis. */

#define TAPS (T0 * T1 * T2)

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts)
{
    (void)v;
    const float *x = p[0];
    const int32_t *start = p[P_START];
    const float *weight = (const float *)p[P_WEIGHT] + (WEIGHT_AT);
    float *y = p[P_OUT];
#if !SCALAR
    epi_t e;
    epi_init(&e, p);
#endif
    int64_t row, end;
    share((int64_t)(OUTER) * (O0 * O1), part, parts, &row, &end);
    for (; row < end; row++) {
        const int64_t o1 = row % O1, o0 = row / O1 % O0;
        const float *image = x + row / (O0 * O1) * ((int64_t)I0 * I1 * I2 * XLD);
        const float *w0 = weight + o0 * T0, *w1 = weight + O0 * T0 + o1 * T1, *w2 = weight + O0 * T0 + O1 * T1;
        const int32_t s0 = start[o0], s1 = start[O0 + o1];
        for (int64_t o2 = 0; o2 < O2; o2++, w2 += T2) {
            const int32_t s2 = start[O0 + O1 + o2];
            const int64_t pix = row * O2 + o2;
            float w[TAPS];
            const float *a[TAPS];
            for (int t0 = 0, k = 0; t0 < T0; t0++)
                for (int t1 = 0; t1 < T1; t1++)
                    for (int t2 = 0; t2 < T2; t2++, k++) {
                        w[k] = w0[t0] * w1[t1] * w2[t2];
                        a[k] = image + (((int64_t)TAP(s0, t0, I0) * I1 + TAP(s1, t1, I1)) * I2 + TAP(s2, t2, I2)) * XLD;
                    }
#if CROP
            const int outside = s0 < 0 || s1 < 0 || s2 < 0;
#else
            enum { outside = 0 };
#endif
#if SCALAR
            float sum = outside ? OUTSIDE : 0.0f;
            for (int k = 0; k < TAPS && !outside; k++)
                sum += w[k] * a[k][0];
            y[pix * OLD] = sum;
#else
            const int64_t img = pix / (IMG_ROWS);
            for (int64_t c = 0; c < C; c += VL) {
                const int n = C - c < VL ? (int)(C - c) : VL;
                vf sum = splat(outside ? OUTSIDE : 0.0f);
                if (!outside)
                    for (int k = 0; k < TAPS; k++)
                        sum = FMA(splat(w[k]), ldx(a[k] + c, n), sum);
                stx(y + pix * OLD + c, epilogue(sum, &e, img, pix, c, n), n);
            }
#endif
        }
    }
}
