/* packed.c - products with packed weights by integer dot products (AVX512-VNNI). */
#include "kernels/cpu/packed_product.h"
