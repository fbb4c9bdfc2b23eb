/* Determinants of BATCH matrices of SIZE rows: Gaussian elimination with the largest pivot of each column, in double. */

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts)
{
    (void)v;
    const int64_t n = SIZE;
    double *a = p[2];
    int64_t lo, hi;
    share(BATCH, part, parts, &lo, &hi);
    for (int64_t u = lo; u < hi; u++) {
        const T *x = (const T *)p[0] + u * n * n;
        double product = 1;
        for (int64_t i = 0; i < n * n; i++)
            a[i] = (double)x[i];
        for (int64_t c = 0; c < n; c++) {
            int64_t pivot = c;
            for (int64_t r = c + 1; r < n; r++)
                if (__builtin_fabs(a[r * n + c]) > __builtin_fabs(a[pivot * n + c]))
                    pivot = r;
            if (pivot != c) {
                product = -product;
                for (int64_t j = c; j < n; j++) {
                    const double t = a[c * n + j];
                    a[c * n + j] = a[pivot * n + j], a[pivot * n + j] = t;
                }
            }
            product *= a[c * n + c];
            if (a[c * n + c] == 0)
                break;
            for (int64_t r = c + 1; r < n; r++) {
                const double factor = a[r * n + c] / a[c * n + c];
                for (int64_t j = c + 1; j < n; j++)
                    a[r * n + j] -= factor * a[c * n + j];
            }
        }
        ((T *)p[1])[u] = (T)product;
    }
}
