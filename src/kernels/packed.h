/* packed.h - matrices of weights that stay packed: small whole numbers with a scale a block, multiplied as they lie.
 *
 * A form is how a matrix [n, k] (n outputs, k a multiple of 32) lies in memory: panels of 16 rows, one after the other,
 * the last one filled with rows of zeros; a panel is its blocks of 32 columns in order, and a block is
 *
 *     16 scales d, then, where the form has them, 16 minima m (f16, or f32 in wide forms), one a row;
 *     the numbers q + centre: groups of four columns, each group 16 rows x 4 bytes. Of 4 bits, a byte holds a number
 *     of column c in its low half and of column c + 16 in its high half.
 *
 * and stands for d q, or d q + m: the same bytes a number as the file's blocks, but read in one straight line by a
 * register of 16 rows. A product rounds each 32 numbers of x to int8 with a scale of their own (plx_quantise_block),
 * sums q times those in whole numbers, which is exact, and the blocks in f32 in their order. */
#ifndef PLX_KERNELS_PACKED_H
#define PLX_KERNELS_PACKED_H

#include "io/packing.h"
#include "kernels/kernels.h"

#include <string.h>

#define PLX_PANEL_ROWS ((size_t)16)
#define PLX_BLOCK ((size_t)32)

/* name, bits, whether scales are f32, whether there are minima, centre; what files hold that becomes this form:
 *     Q4_0  Q4_0                    Q4_1  Q4_1        Q8_0  Q8_0, Q5_0         Q8_1  Q5_1
 *     Q4_W1 Q4_K                    Q8_W1 Q5_K        Q8_W0 Q6_K (near: 8 bits and a scale for 32 numbers in the place
 *                                                           of 6 bits and a scale for 16; all others exactly) */
#define PLX_FORM_LIST(X)           \
    X(Q4_0, 4, false, false, 8)    \
    X(Q4_1, 4, false, true, 0)     \
    X(Q8_0, 8, false, false, 128)  \
    X(Q8_1, 8, false, true, 128)   \
    X(Q4_W1, 4, true, true, 0)     \
    X(Q8_W0, 8, true, false, 128)  \
    X(Q8_W1, 8, true, true, 128)

typedef enum plx_form {
    PLX_FORM_PLAIN, /* not packed: numbers of a plx_type */
#define PLX_FORM_ENUM(name, bits, wide, minimum, centre) PLX_FORM_##name,
    PLX_FORM_LIST(PLX_FORM_ENUM)
#undef PLX_FORM_ENUM
    PLX_FORM_COUNT
} plx_form;

const char *plx_form_name(plx_form form); /* "Q4_1" */
int plx_form_centre(plx_form form);
bool plx_form_has_minimum(plx_form form);
size_t plx_form_block_bytes(plx_form form); /* of a panel's block: 512 numbers */
/* Bytes of a matrix; false when they cannot be named. */
bool plx_form_bytes(plx_form form, size_t rows, size_t columns, size_t *bytes);

/* ---- packing (host memory) ---- */

/* The form that keeps a file's packing; PLX_FORM_PLAIN where there is none (f32, f16, bf16). */
plx_form plx_form_of(plx_packing packing);
/* One block of 32 numbers on its way: d q, or d q + m. */
typedef struct plx_loose_block {
    float d, m;
    int8_t q[32];
} plx_loose_block;
/* Number b of a row's blocks of 32, out of a file's packing, for plx_form_of's form. */
void plx_loose_from_packing(plx_packing packing, const void *row, size_t b, plx_loose_block *block);
/* 32 numbers as Q8_0 or Q4_0 (or Q8_W0, as Q8_0 with its scale in f32), in the way of the programs that write GGUF:
 * Q8_0: d = max |w| / 127; Q4_0: d = the number of largest magnitude / -8. */
void plx_loose_from_numbers(plx_form form, const float *numbers, plx_loose_block *block);
/* Puts a block into row `row` of its panel; at: the panel's block. False where the scale or minimum is not finite. */
bool plx_form_put(plx_form form, const plx_loose_block *block, size_t row, void *at);

/* ---- activations ---- */

/* 32 numbers of x: scale * q. shift: scale * sum of q, for minima; offset: -centre * sum of q. */
typedef struct plx_quantised {
    int8_t q[32];
    float scale, shift;
    int32_t offset, unused;
} plx_quantised;

/* scale = max |x| / 127, q = x * (127 / max |x|) rounded to nearest, ties to even. Below 1e-36 all are 0; where a number
 * is not finite, the scale is NaN. The same bits at every level. */
static inline __attribute__((always_inline)) void plx_quantise_block(const float *x, int centre, plx_quantised *to)
{
    int32_t top = 0, sum = 0, bits[32];
    memcpy(bits, x, sizeof bits);
    for (int i = 0; i < 32; i++) {
        int32_t magnitude = bits[i] & 0x7fffffff; /* in the order of the numbers, NaN last */
        top = magnitude > top ? magnitude : top;
    }
    float most;
    memcpy(&most, &top, sizeof most);
    bool finite = top < 0x7f800000;
    float inverse = finite && most > 1e-36f ? 127.0f / most : 0.0f;
    if (!finite) {
        memset(to->q, 0, sizeof to->q);
    } else {
        for (int i = 0; i < 32; i++) {
            int32_t q = (int32_t)__builtin_lrintf(x[i] * inverse);
            sum += q;
            to->q[i] = (int8_t)q;
        }
    }
    to->scale = !finite ? __builtin_nanf("") : most > 1e-36f ? most / 127.0f : 0.0f;
    to->shift = to->scale * (float)sum;
    to->offset = -centre * sum;
    to->unused = 0;
}

/* ---- packed_matmul: y[m,n] = beta * y + x[m,k] W[n,k]^T + bias ----
 * A row of y does not depend on the others. type f64: x is not rounded (the reference). */
typedef struct plx_packed_matmul_args {
    plx_type type;
    plx_form form;
    const void *weights, *x;
    void *y;
    size_t m, n, k;
    double beta;      /* 0: y is not read */
    const void *bias; /* [n] of bias_type; NULL: none */
    plx_type bias_type;
} plx_packed_matmul_args;
extern const plx_op plx_op_packed_matmul;

/* ---- packed_rows: y[count, k] = rows ids[0 .. count-1] of W[n,k], or rows first, first + 1, ... where ids is NULL ----
 * In f32 the numbers of the forms that are exact are those of plx_packing_unpack, bit for bit. */
typedef struct plx_packed_rows_args {
    plx_type type;
    plx_form form;
    const void *weights;
    const int32_t *ids;
    size_t first, count, n, k;
    void *y;
} plx_packed_rows_args;
extern const plx_op plx_op_packed_rows;

#endif
