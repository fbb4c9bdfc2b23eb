/* Discrete Fourier transforms of length N along the middle axis of [OUTER, GIVEN, INNER, PARTS] data.
 *
 * Stockham's self-sorting algorithm: with n = p m and s transforms interleaved, stage by stage
 *   y[c + s (p b + k)] = W_n^(b k) sum over a of W_p^(a k) x[c + s (b + m a)],
 * where W_n = exp(-2 pi i / n) is read from a table of all N powers; the inverse transform conjugates them. Missing elements are 0.
 * MIRRORED: the data are the first half of a spectrum whose rest is its conjugate. Workspace: two lines of N complex doubles. */

typedef struct { double re, im; } complex_t;

INLINE complex_t times(complex_t a, complex_t b)
{
    return (complex_t){a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}

INLINE complex_t power(const complex_t *table, int64_t t)
{
    const complex_t w = table[t];
    return (complex_t){w.re, INVERSE ? -w.im : w.im};
}

INLINE complex_t plus(complex_t a, complex_t b) { return (complex_t){a.re + b.re, a.im + b.im}; }
INLINE complex_t minus(complex_t a, complex_t b) { return (complex_t){a.re - b.re, a.im - b.im}; }

/* One stage of factor p; 2 and 4 need no products but those with W_n. */
INLINE void stage(const complex_t *x, complex_t *y, const complex_t *table, int64_t p, int64_t m, int64_t s)
{
    for (int64_t b = 0; b < m; b++)
        for (int64_t k = 0; k < p; k++) {
            const complex_t turn = power(table, b * k * s);
            for (int64_t c = 0; c < s; c++) {
                complex_t sum = x[c + s * b];
                for (int64_t a = 1; a < p; a++)
                    sum = plus(sum, times(x[c + s * (b + m * a)], power(table, a * k % p * (N / p))));
                y[c + s * (p * b + k)] = times(sum, turn);
            }
        }
}

static void stage2(const complex_t *x, complex_t *y, const complex_t *table, int64_t m, int64_t s)
{
    for (int64_t b = 0; b < m; b++) {
        const complex_t turn = power(table, b * s);
        for (int64_t c = 0; c < s; c++) {
            const complex_t u = x[c + s * b], w = x[c + s * (b + m)];
            y[c + s * 2 * b] = plus(u, w);
            y[c + s * (2 * b + 1)] = times(minus(u, w), turn);
        }
    }
}

static void stage4(const complex_t *x, complex_t *y, const complex_t *table, int64_t m, int64_t s)
{
    for (int64_t b = 0; b < m; b++) {
        const complex_t w1 = power(table, b * s), w2 = power(table, 2 * b * s), w3 = power(table, 3 * b * s);
        for (int64_t c = 0; c < s; c++) {
            const complex_t *from = x + c + s * b;
            const complex_t even = plus(from[0], from[2 * s * m]), odd = plus(from[s * m], from[3 * s * m]);
            const complex_t half = minus(from[0], from[2 * s * m]), rest = minus(from[s * m], from[3 * s * m]);
            const complex_t side = INVERSE ? (complex_t){-rest.im, rest.re} : (complex_t){rest.im, -rest.re};
            complex_t *to = y + c + s * 4 * b;
            to[0] = plus(even, odd);
            to[s] = times(plus(half, side), w1);
            to[2 * s] = times(minus(even, odd), w2);
            to[3 * s] = times(minus(half, side), w3);
        }
    }
}

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts)
{
    (void)v;
    const complex_t *table = p[1];
    const int64_t radix[] = FACTORS, inner = INNER, given = GIVEN, results = RESULTS;
    int64_t lo, hi;
    share(OUTER * inner, part, parts, &lo, &hi);
    for (int64_t u = lo; u < hi; u++) {
        const T *from = (const T *)p[0] + (u / inner * given * inner + u % inner) * PARTS;
        T *to = (T *)p[2] + (u / inner * results * inner + u % inner) * OUT_PARTS;
        complex_t *x = p[3], *y = x + N;
        for (int64_t i = 0; i < N; i++) {
            const int64_t at = MIRRORED && i > N / 2 ? N - i : i;
            x[i] = (complex_t){0, 0};
            if (at < given) {
                x[i].re = (double)from[at * inner * PARTS];
                if (PARTS == 2 && !(MIRRORED && (i == 0 || 2 * i == N)))
                    x[i].im = (double)from[at * inner * PARTS + 1];
                if (MIRRORED && i > N / 2)
                    x[i].im = -x[i].im;
            }
        }
        for (int64_t t = 0, m = N, s = 1; t < STAGES; t++) {
            m /= radix[t];
            switch (radix[t]) {
            case 2: stage2(x, y, table, m, s); break;
            case 3: stage(x, y, table, 3, m, s); break;
            case 4: stage4(x, y, table, m, s); break;
            case 5: stage(x, y, table, 5, m, s); break;
            default: stage(x, y, table, radix[t], m, s);
            }
            s *= radix[t];
            complex_t *other = x;
            x = y, y = other;
        }
        for (int64_t i = 0; i < results; i++) {
            to[i * inner * OUT_PARTS] = (T)(INVERSE ? x[i].re / N : x[i].re);
            if (OUT_PARTS == 2)
                to[i * inner * OUT_PARTS + 1] = (T)(INVERSE ? x[i].im / N : x[i].im);
        }
    }
}
