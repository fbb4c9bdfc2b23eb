/* Depthwise convolution over channels-last rows: a register tile is NB neighbouring output columns of CB channel vectors.
 *
 * Each input vector is loaded once per kernel row and feeds every output column that needs it; a kernel row's weights stay in
 * registers. Taps outside the image are skipped, at compile time where the tile's column is a constant.
 * Generated: the epilogue, and TILES(t), which calls t(column, width, edge) for the tiles of one output row; `edge` tiles may
 * touch padding. Weights are packed per block of CB*VL channels: a bias row, then [KH][KW], each CB*VL wide, zero-padded.
 * CODES 1: the input holds 8-bit codes (in_t, zero at ZERO_POINT, or at what p[P_ZERO] points to if P_ZERO >= 0) and weights are whole numbers; products and sums of them are exact in
 * float as long as they stay below 2^24, which the tactic sees to. The bias row is int32 then, and the epilogue gets int32.
 * OC output channels, MULT of them per input channel; XLD, OLD: pixel strides; ROWS output rows are one unit of work. */
#define UNROLL _Pragma("clang loop unroll(full)")
#define BLOCKS ((OC + CB * VL - 1) / (CB * VL))
#define VECTORS ((OC + VL - 1) / VL)
#define TAIL_CB (VECTORS % CB)
#define TAIL_LANES (OC - (VECTORS - 1) * VL)
#define PANEL ((1 + KH * KW) * CB * VL)

#if CODES
typedef vi acc_t;
#else
typedef vf acc_t;
#endif

typedef struct {
  const in_t *x;
  const float *w;
  void *out;
  const epi_t *e;
  int64_t img, pix0, oy, c, ky0, ky1, ahead;
  int32_t zero;
} row_t;
#define ZERO (P_ZERO >= 0 ? zero : ZERO_POINT)

INLINE vf load_x(const in_t *p, int64_t c, int n, int32_t zero) {
  (void)zero;
#if MULT > 1
  vf v = {};
  UNROLL for (int i = 0; i < VL; i++) if (i < n) v[i] = p[(c + i) / MULT] - ZERO;
  return v;
#elif CODES
  return v_from_int(LOAD_CODES(p + c, n) - ZERO);
#else
  return ldx(p + c, n);
#endif
}

/* nv vectors, the last with nl lanes; nb, edge, nv and nl are constants after inlining, and ox is for edge tiles of static rows. */
INLINE void tile(const row_t *r, int64_t iw, int64_t ow, int64_t ox, int nb, int edge, int nv, int nl) {
  vf acc[NB][CB];
  UNROLL for (int v = 0; v < CB; v++) if (v < nv) {
    vf b = CODES ? (vf){} : ld(r->w + v * VL);
    UNROLL for (int o = 0; o < NB; o++) if (o < nb) acc[o][v] = b;
  }
  const float *w = r->w + (1 + r->ky0 * KW) * CB * VL;
  for (int64_t ky = r->ky0; ky < r->ky1; ky++, w += KW * CB * VL) {
    const in_t *x = r->x + ((r->oy * SH - PAD_T + ky * DH) * iw + ox * SW - PAD_L) * XLD;
    vf k[KW][CB];
    UNROLL for (int kx = 0; kx < KW; kx++)
      UNROLL for (int v = 0; v < CB; v++) if (v < nv) k[kx][v] = ld(w + (kx * CB + v) * VL);
    UNROLL for (int j = 0; j <= (NB - 1) * SW + (KW - 1) * DW; j++) {
      const int64_t ix = ox * SW - PAD_L + j;
      if (j > (nb - 1) * SW + (KW - 1) * DW || (edge && (ix < 0 || ix >= iw))) continue;
      UNROLL for (int v = 0; v < CB; v++) if (v < nv) {
        vf a = load_x(x + j * XLD, r->c + v * VL, v == nv - 1 ? nl : VL, r->zero);
        UNROLL for (int kx = 0; kx < KW; kx++) {
          const int d = j - kx * DW, o = d / SW;
          if (d >= 0 && d % SW == 0 && o < nb) acc[o][v] = FMA(a, k[kx][v], acc[o][v]);
        }
      }
    }
  }
#if PREFETCH
  {
    const in_t *x = r->x + (r->ahead * iw + ox * SW) * XLD + r->c;
    UNROLL for (int y = 0; y < SH; y++)
      UNROLL for (int j = 0; j < NB * SW; j++) if (j < nb * SW)
        UNROLL for (int v = 0; v < CB; v += 64 / (VL * sizeof(in_t)) > 0 ? 64 / (VL * sizeof(in_t)) : 1) if (v < nv) __builtin_prefetch(x + (y * iw + j) * XLD + v * VL, 0, 3);
  }
#endif
  const int64_t pix = r->oy * ow + ox;
  UNROLL for (int o = 0; o < NB; o++) if (o < nb) {
    UNROLL for (int v = 0; v < CB; v++) if (v < nv) {
      const int n = v == nv - 1 ? nl : VL;
      const int64_t c = r->c + v * VL;
#if CODES
      const acc_t sum = __builtin_convertvector(acc[o][v], vi) + ldi(r->w + v * VL);
#else
      const acc_t sum = acc[o][v];
#endif
      epi_store(r->out, (r->pix0 + pix + o) * OLD + c, epilogue(sum, r->e, r->img, r->pix0 + pix + o, c, n), n);
    }
  }
}

/* Rows [y0, y1) of one channel block. */
INLINE void block(row_t *r, const int64_t *v, int64_t y0, int64_t y1, int nv, int nl) {
  const int64_t ih = IH, iw = IW, ow = OW;
  for (int64_t oy = y0; oy < y1; oy++) {
    const int64_t top = oy * SH - PAD_T;
    r->oy = oy;
    r->ky0 = top >= 0 ? 0 : (-top + DH - 1) / DH;
    r->ky1 = top + (KH - 1) * DH < ih ? KH : ih > top ? (ih - top + DH - 1) / DH : 0;
    if (r->ky0 > r->ky1) r->ky0 = r->ky1;
    r->ahead = top + (KH - 1) * DH + 1;
    if (r->ahead + SH > ih) r->ahead = 0;
#define T(ox, nb, edge) tile(r, iw, ow, ox, nb, edge, nv, nl);
    TILES(T)
#undef T
  }
}

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  const int64_t oh = OH, ow = OW;
  epi_t e;
  epi_init(&e, (void **)p);
#if P_ZERO >= 0
  const int32_t zero = *(const in_t *)p[P_ZERO];
#else
  const int32_t zero = 0;
#endif
  const int64_t high = (oh + ROWS - 1) / ROWS;
  int64_t lo, hi;
  if (oh <= 0 || ow <= 0) return;
  share((int64_t)BATCH * high * BLOCKS, part, parts, &lo, &hi);
  for (int64_t u = lo; u < hi; u++) {
    const int64_t b = u % BLOCKS, t = u / BLOCKS, y0 = t % high * ROWS, img = t / high;
    row_t r = {(const in_t *)p[0] + img * ((int64_t)IH * IW * XLD), (const float *)p[1] + b * PANEL, p[2], &e, img, img * (oh * ow), 0, b * CB * VL, 0, 0, 0, zero};
    const int64_t y1 = y0 + ROWS < oh ? y0 + ROWS : oh;
    if (b < BLOCKS - 1) block(&r, v, y0, y1, CB, VL);
    else block(&r, v, y0, y1, TAIL_CB ? TAIL_CB : CB, TAIL_LANES);
  }
}
