/* Depthwise convolution of 8-bit codes by products of four bytes: the four of a 32-bit word are neighbouring pixels of one channel.
 *
 * A register holds 64 bytes: CB quarters of 16 channels, of SLOTS = 4 / CB output rows (YB apart). Two registers of neighbouring pixels are
 * interleaved to a pair, two pairs to a group of four pixels for each quarter; groups start at every other pixel, so that a pair serves
 * two of them. An output takes (KW + 3) / 4 groups, its first tap in the first byte or, for outputs that start at an odd pixel of the
 * tile, the second; bytes without a tap have zero weights. A tile is NB columns x YB rows of each slot.
 *
 * Every block has 16 CB channels: the last starts earlier where the channels are no multiple, and computes some results again. So do the
 * last rows. Weights of a block: a row of int32 biases [CB][VL], then [KH][PARITIES][GROUPS][CB][VL] words. Padding is codes of zero.
 * Defined by the tactic: BATCH IH IW OH OW OC KH KW SH SW PAD_T PAD_L XLD OLD CB YB NB ROWS (output rows a unit of work) TILES(t) (see
 * depthwise.c) PADDING (the code of zero) FLIP (the bits to turn to make it and the others unsigned: 0 or 128). */
#define UNROLL _Pragma("clang loop unroll(full)")
#define SLOTS (4 / CB)
#define WIDTH (16 * CB)
#define BLOCKS ((OC + WIDTH - 1) / WIDTH)
#define PARITIES (SW % 2 ? 2 : 1)
#define GROUPS ((KW + PARITIES + 2) / 4)
#define WORDS (CB * VL)
#define PANEL ((1 + KH * PARITIES * GROUPS) * WORDS)
#define LAST_GROUP ((NB - 1) * SW / 2 + 2 * (GROUPS - 1))

static const uint8_t padding[64] __attribute__((aligned(64))) = {
#define P4 PADDING, PADDING, PADDING, PADDING
#define P16 P4, P4, P4, P4
    P16, P16, P16, P16};

typedef struct {
  const uint8_t *x;
  const int32_t *w;
  void *out;
  const epi_t *e;
  int64_t img, pix0, c, oy, end;
} row_t;

/* First output row of a slot: rows beyond the end are the last ones again. */
INLINE int64_t slot_row(const row_t *r, int s) {
  const int64_t y = r->oy + s * YB, last = r->end - YB;
  return y < last ? y : last;
}

INLINE __m512i load_pixel(const uint8_t *const *row, const int64_t *step, int64_t at) {
#if CB == 4
  __m512i v = _mm512_loadu_si512(row[0] + at * step[0]);
#elif CB == 2
  __m512i v = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(row[0] + at * step[0])));
  v = _mm512_inserti64x4(v, _mm256_loadu_si256((const __m256i *)(row[1] + at * step[1])), 1);
#else
  __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(row[0] + at * step[0])));
  v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(row[1] + at * step[1])), 1);
  v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(row[2] + at * step[2])), 2);
  v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(row[3] + at * step[3])), 3);
#endif
  /* Quarter m in the m-th words of the 128-bit parts: interleaving twice then leaves it alone in a register. */
  v = _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), v);
  return FLIP ? _mm512_xor_si512(v, _mm512_set1_epi8((char)FLIP)) : v;
}

/* nb and edge are constants after inlining, and ox is for edge tiles of static rows. */
INLINE void tile(const row_t *r, int64_t ih, int64_t iw, int64_t ow, int64_t ox, int nb, int edge) {
  vi acc[YB][NB][4];
  UNROLL for (int m = 0; m < 4; m++) {
    const vi b = ldi(r->w + m % CB * VL);
    UNROLL for (int y = 0; y < YB; y++) UNROLL for (int o = 0; o < NB; o++) if (o < nb) acc[y][o][m] = b;
  }
  const int64_t left = ox * SW - PAD_L;
  const int pixels = (nb - 1) * SW + KW;
  const __m512i outside = _mm512_set1_epi8((char)(PADDING ^ FLIP));
#if YB > 1
  UNROLL
#else
  _Pragma("clang loop unroll(disable)")
#endif
  for (int k = 0; k < KH + (YB - 1) * SH; k++) {
    const uint8_t *row[SLOTS];
    int64_t step[SLOTS];
    UNROLL for (int s = 0; s < SLOTS; s++) {
      const int64_t y = slot_row(r, s) * SH - PAD_T + k;
      const int inside = y >= 0 && y < ih;
      row[s] = inside ? r->x + y * iw * XLD : padding;
      step[s] = inside ? XLD : 0;
    }
    __m512i low[LAST_GROUP + 2], high[LAST_GROUP + 2];
    UNROLL for (int p = 0; p <= LAST_GROUP + 1; p++) {
      __m512i x[2] = {outside, outside};
      UNROLL for (int i = 0; i < 2; i++) {
        const int64_t at = left + 2 * p + i;
        if (2 * p + i < pixels && !(edge && (at < 0 || at >= iw))) x[i] = load_pixel(row, step, at);
      }
      low[p] = _mm512_unpacklo_epi8(x[0], x[1]);
      high[p] = _mm512_unpackhi_epi8(x[0], x[1]);
      if (p == 0) continue;
      const vi t[4] = {(vi)_mm512_unpacklo_epi16(low[p - 1], low[p]), (vi)_mm512_unpackhi_epi16(low[p - 1], low[p]),
                       (vi)_mm512_unpacklo_epi16(high[p - 1], high[p]), (vi)_mm512_unpackhi_epi16(high[p - 1], high[p])};
      UNROLL for (int y = 0; y < YB; y++) {
        const int ky = k - y * SH;
        if (ky < 0 || ky >= KH) continue;
        UNROLL for (int o = 0; o < NB; o++) UNROLL for (int g = 0; g < GROUPS; g++) {
          if (o >= nb || o * SW / 2 + 2 * g != p - 1 || 4 * g >= KW + o * SW % 2) continue;
          const int32_t *w = r->w + (1 + (ky * PARITIES + o * SW % 2) * GROUPS + g) * WORDS;
          UNROLL for (int m = 0; m < 4; m++) acc[y][o][m] = dot4(acc[y][o][m], t[m], ldi(w + m % CB * VL));
        }
      }
    }
  }
  const epi_t e = *r->e;
  UNROLL for (int y = 0; y < YB; y++) UNROLL for (int o = 0; o < NB; o++) if (o < nb) {
    vi v[4];
    int64_t pix[4];
    UNROLL for (int m = 0; m < 4; m++) pix[m] = r->pix0 + (slot_row(r, m / CB) + y) * ow + ox + o;
#define RESULT(m) epilogue(acc[y][o][m], &e, r->img, pix[m], r->c + m % CB * VL, VL)
#if EPI_CODES
    UNROLL for (int m = 0; m < 4; m++) v[m] = RESULT(m);
    const __m512i codes = v_codes(v[0], v[1], v[2], v[3], EPI_ZERO, EPI_SIGNED);
    uint8_t *out = (uint8_t *)r->out + r->c;
#if CB == 4
    _mm512_storeu_si512(out + pix[0] * OLD, codes);
#elif CB == 2
    _mm256_storeu_si256((__m256i *)(out + pix[0] * OLD), _mm512_castsi512_si256(codes));
    _mm256_storeu_si256((__m256i *)(out + pix[2] * OLD), _mm512_extracti64x4_epi64(codes, 1));
#else
    _mm_storeu_si128((__m128i *)(out + pix[0] * OLD), _mm512_castsi512_si128(codes));
    _mm_storeu_si128((__m128i *)(out + pix[1] * OLD), _mm512_extracti32x4_epi32(codes, 1));
    _mm_storeu_si128((__m128i *)(out + pix[2] * OLD), _mm512_extracti32x4_epi32(codes, 2));
    _mm_storeu_si128((__m128i *)(out + pix[3] * OLD), _mm512_extracti32x4_epi32(codes, 3));
#endif
#else
    (void)v;
    UNROLL for (int m = 0; m < 4; m++) epi_store(r->out, pix[m] * OLD + r->c + m % CB * VL, RESULT(m), VL);
#endif
#undef RESULT
  }
}

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  const int64_t ih = IH, iw = IW, oh = OH, ow = OW, high = (oh + ROWS - 1) / ROWS;
  int64_t lo, hi;
  epi_t e;
  (void)v;
  epi_init(&e, p);
  if (oh <= 0 || ow <= 0) return;
  share((int64_t)BATCH * high * BLOCKS, part, parts, &lo, &hi);
  for (int64_t u = lo; u < hi; u++) {
    const int64_t b = u % BLOCKS, t = u / BLOCKS, img = t / high, y0 = t % high * ROWS;
    const int64_t c = b < BLOCKS - 1 ? b * WIDTH : OC - WIDTH;
    row_t r = {(const uint8_t *)p[0] + img * (ih * iw * XLD) + c, (const int32_t *)p[1] + b * PANEL, p[2], &e, img, img * (oh * ow), c, y0, 0};
    r.end = y0 + ROWS < oh ? y0 + ROWS : oh;
    for (; r.oy < r.end; r.oy += SLOTS * YB) {
#define T(ox, nb, edge) tile(&r, ih, iw, ow, ox, nb, edge);
      TILES(T)
#undef T
    }
  }
}
