/* packed.c - products with packed weights at the levels without integer dot products. */
#include "kernels/cpu/packed_product.h"
