/* Sums over labels: KEPT labels index the output, the rest of LABELS are summed over; SIZES of each, kept ones first.
 *
 * STRIDES[o][l]: elements of operand o from one index of label l to the next. T is an element, A what sums are kept in: double for
 * floats, unsigned for integers, which wrap. p: the operands, then the output. */

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts)
{
    (void)v;
    const int64_t sizes[] = SIZES, terms = TERMS;
    const int64_t strides[OPERANDS][LABELS ? LABELS : 1] = STRIDES;
    T *y = p[OPERANDS];
    int64_t lo, hi;
    share(OUTPUTS, part, parts, &lo, &hi);
    for (int64_t u = lo; u < hi; u++) {
        int64_t at[OPERANDS], rest = u;
        for (int o = 0; o < OPERANDS; o++)
            at[o] = 0;
        for (int l = KEPT - 1; l >= 0; rest /= sizes[l], l--)
            for (int o = 0; o < OPERANDS; o++)
                at[o] += rest % sizes[l] * strides[o][l];
        A sum = 0;
        int64_t index[LABELS - KEPT + 1] = {0};
        for (int64_t t = 0; t < terms; t++) {
            A term = (A)((const T *)p[0])[at[0]];
            for (int o = 1; o < OPERANDS; o++)
                term *= (A)((const T *)p[o])[at[o]];
            sum += term;
            for (int l = LABELS - 1; l >= KEPT; l--) {
                const int wrap = ++index[l - KEPT] == sizes[l];
                for (int o = 0; o < OPERANDS; o++)
                    at[o] += wrap ? -(sizes[l] - 1) * strides[o][l] : strides[o][l];
                if (!wrap)
                    break;
                index[l - KEPT] = 0;
            }
        }
        y[u] = (T)sum;
    }
}
