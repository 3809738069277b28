/* packing.h - how weights lie in files: plain numbers, and blocks of numbers that share a scale (GGUF's).
 *
 * A row of a matrix is a whole number of blocks, so rows can be taken out and put in another order without unpacking.
 * All is little-endian. */
#ifndef PLX_IO_PACKING_H
#define PLX_IO_PACKING_H

#include "core/context.h"

/* name, numbers a block, bytes a block */
#define PLX_PACKING_LIST(X)                                                                                  \
    X(F32, 1, 4)                                                                                             \
    X(F64, 1, 8)                                                                                             \
    X(BF16, 1, 2)                                                                                            \
    X(F16, 1, 2)                                                                                             \
    X(Q8_0, 32, 34)                                                                                          \
    X(Q4_0, 32, 18)                                                                                          \
    X(Q4_1, 32, 20)                                                                                          \
    X(Q5_0, 32, 22)                                                                                          \
    X(Q5_1, 32, 24)                                                                                          \
    X(Q4_K, 256, 144)                                                                                        \
    X(Q5_K, 256, 176)                                                                                        \
    X(Q6_K, 256, 210)

typedef enum plx_packing {
#define PLX_PACKING_ENUM(name, numbers, bytes) PLX_PACKED_##name,
    PLX_PACKING_LIST(PLX_PACKING_ENUM)
#undef PLX_PACKING_ENUM
    PLX_PACKING_COUNT
} plx_packing;

const char *plx_packing_name(plx_packing packing); /* "Q4_0" */
size_t plx_packing_numbers(plx_packing packing);   /* a block */
size_t plx_packing_bytes(plx_packing packing);     /* a block */
/* The type of plain numbers; false for blocks. */
bool plx_packing_plain(plx_packing packing, plx_type *type);
plx_packing plx_packing_of(plx_type type);
/* The numbers of `count` blocks, as f32. F64 rounds; every other packing gives the numbers that the field's own
 * program gives, bit for bit. */
void plx_packing_unpack(plx_packing packing, const void *blocks, size_t count, float *numbers);
/* Numbers 32 part .. 32 part + 31 of a block, as d q or d q + m, whichever the packing is; both exactly. Not for Q6_K,
 * whose scales are of 16 numbers, nor for plain numbers. */
void plx_packing_loosen(plx_packing packing, const void *block, int part, float *d, float *m, int8_t q[32]);

#endif
