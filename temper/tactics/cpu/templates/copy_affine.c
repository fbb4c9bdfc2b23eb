/* Affine copy: out[i0, .., ik] = in[BASE + i0*s0 + .. + ik*sk]: Transpose, Slice, Expand.
 *
 * The generator emits LOOPS_OUTER .. as nested loops over all but the last two collapsed axes (rows R, columns Q). Three inner forms:
 *   FORM 0  columns contiguous on both sides: a run of Q elements is copied.
 *   FORM 1  rows contiguous in the input, columns in the output: a TILE x TILE block transpose, so that each cache line is used whole.
 *           INTERLEAVE Q: Q planes of bytes or 32-bit elements become rows of Q (an image's channels made neighbours), a register of each at
 *           a time.
 *   FORM 2  anything else: element by element.
 * Work is shared out by flat outer index times row blocks of ROWS rows. */

#define TILE 16
#if defined(INTERLEAVE) && !(VL == 16 || (VL == 8 && !defined(T_IS_32)))
#undef INTERLEAVE
#endif
#ifdef INTERLEAVE
#define ROWS 256
#else
#define ROWS TILE
#endif

INLINE void rows_copy(const T *x, T *y, const int64_t *v, int64_t r0, int64_t r1)
{
    (void)v; /* sizes and strides may be run-time values v[i] */
    for (int64_t r = r0; r < r1; r++) {
        const T *a = x + r * IN_R;
        T *b = y + r * OUT_R;
#if FORM == 0
        __builtin_memcpy(b, a, (size_t)Q * sizeof(T));
#else
        for (int64_t q = 0; q < Q; q++)
            b[q] = a[q * IN_Q];
#endif
    }
}

#if FORM == 1
#if VL >= 8 && defined(T_IS_32)
/* 8 rows of the input (8 columns each) become 8 columns of the output. */
typedef int32_t v8 __attribute__((vector_size(32)));
typedef int32_t v8_any __attribute__((vector_size(32), aligned(1), may_alias));
INLINE void block8(const T *x, int64_t xs, T *y, int64_t ys)
{
    v8 a[8], b[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        a[i] = *(const v8_any *)(x + i * xs);
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        b[i] = __builtin_shufflevector(a[i], a[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        b[i + 1] = __builtin_shufflevector(a[i], a[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        a[i] = __builtin_shufflevector(b[i], b[i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
        a[i + 1] = __builtin_shufflevector(b[i], b[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        a[i + 2] = __builtin_shufflevector(b[i + 1], b[i + 3], 0, 1, 8, 9, 4, 5, 12, 13);
        a[i + 3] = __builtin_shufflevector(b[i + 1], b[i + 3], 2, 3, 10, 11, 6, 7, 14, 15);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        *(v8_any *)(y + i * ys) = __builtin_shufflevector(a[i], a[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        *(v8_any *)(y + (i + 4) * ys) = __builtin_shufflevector(a[i], a[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
}
#define HAVE_BLOCK8 1
#endif

#if defined(INTERLEAVE) && defined(T_IS_32)
#define STRIP VL
/* VL rows: lane l of output register k holds plane (k*VL + l) % Q, element (k*VL + l) / Q; both fold to constants. */
INLINE void interleave(const T *x, T *y, const int64_t *v)
{
    (void)v;
    vi a[INTERLEAVE];
    _Pragma("clang loop unroll(full)") for (int q = 0; q < INTERLEAVE; q++)
        a[q] = ldi(x + q * IN_Q);
    _Pragma("clang loop unroll(full)") for (int k = 0; k < INTERLEAVE; k++) {
        const vi at = iota() + k * VL, from = at / INTERLEAVE, plane = at - from * INTERLEAVE;
        vi b = (vi)_mm512_permutexvar_epi32((__m512i)from, (__m512i)a[0]);
        _Pragma("clang loop unroll(full)") for (int q = 1; q < INTERLEAVE; q++) {
            const vi m = plane == q;
            b = ((vi)_mm512_permutexvar_epi32((__m512i)from, (__m512i)a[q]) & m) | (b & ~m);
        }
        sti(y + k * VL, b);
    }
}
#elif defined(INTERLEAVE)
#define STRIP 16
typedef uint8_t v16 __attribute__((vector_size(16)));
/* 16 rows: byte l of output register k holds plane (k*16 + l) % Q, element (k*16 + l) / Q; a byte shuffled from 128 or more is 0. */
INLINE void interleave(const T *x, T *y, const int64_t *v)
{
    (void)v;
    const v16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    __m128i a[INTERLEAVE];
    _Pragma("clang loop unroll(full)") for (int q = 0; q < INTERLEAVE; q++)
        a[q] = _mm_loadu_si128((const __m128i *)(x + q * IN_Q));
    _Pragma("clang loop unroll(full)") for (int k = 0; k < INTERLEAVE; k++) {
        const v16 at = lane + (uint8_t)(k * 16), from = at / INTERLEAVE, plane = at - from * INTERLEAVE;
        __m128i b = _mm_setzero_si128();
        _Pragma("clang loop unroll(full)") for (int q = 0; q < INTERLEAVE; q++)
            b = _mm_or_si128(b, _mm_shuffle_epi8(a[q], (__m128i)(from | (v16)(plane != (uint8_t)q) & 128)));
        _mm_storeu_si128((__m128i *)(y + k * 16), b);
    }
}
#endif

/* Rows r0..r1 of the output; the input's rows are contiguous (IN_R == 1), its columns IN_Q apart. */
INLINE void tile_copy(const T *x, T *y, const int64_t *v, int64_t r0, int64_t r1)
{
    (void)v;
#ifdef INTERLEAVE
    for (; r0 + STRIP <= r1; r0 += STRIP)
        interleave(x + r0, y + r0 * INTERLEAVE, v);
#endif
    for (int64_t q0 = 0; q0 < Q; q0 += TILE) {
        int64_t q1 = q0 + TILE < Q ? q0 + TILE : Q, r = r0;
#ifdef HAVE_BLOCK8
        for (; r + 8 <= r1; r += 8) {
            int64_t q = q0;
            for (; q + 8 <= q1; q += 8)
                block8(x + q * IN_Q + r, IN_Q, y + r * OUT_R + q, OUT_R);
            for (; q < q1; q++)
                for (int64_t i = r; i < r + 8; i++)
                    y[i * OUT_R + q] = x[q * IN_Q + i];
        }
#endif
        for (; r < r1; r++)
            for (int64_t q = q0; q < q1; q++)
                y[r * OUT_R + q] = x[q * IN_Q + r];
    }
}
#endif

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts)
{
    const T *x = (const T *)p[0] + (BASE);
    T *y = p[1];
    const int64_t blocks = (R + ROWS - 1) / ROWS, items = (OUTER) * blocks;
    for (int64_t item = items * part / parts; item < items * (part + 1) / parts; item++) {
        int64_t outer = item / blocks, r0 = item % blocks * ROWS, r1 = r0 + ROWS < R ? r0 + ROWS : R;
        int64_t at_in = 0, at_out = 0;
        OUTER_INDEX
#if FORM == 1
        tile_copy(x + at_in, y + at_out, v, r0, r1);
#else
        rows_copy(x + at_in, y + at_out, v, r0, r1);
#endif
    }
}
