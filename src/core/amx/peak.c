/* peak.c - the rate of bf16 tiles whose operands come from L1: two of A and two of B into four of C, as a kernel would.
 */
#include "core/cpu/peak.h"

#include "kernels/amx/tile.h"

enum { DEPTH = 4 }; /* tiles of A and B along k: 16 KB, a third of L1 */

plx_status PLX_CPU(plx_peak_tiles)(plx_context *context, const void *arguments)
{
    (void)context;
    const plx_peak_tiles_args *args = arguments;
    uint16_t operand[DEPTH][4][512] __attribute__((aligned(64)));
    float result[256] __attribute__((aligned(64)));
    for (size_t i = 0; i < sizeof operand / sizeof(uint16_t); i++) /* between 1 and 2, not all alike */
        ((uint16_t *)operand)[i] = (uint16_t)(0x3f80 | (i * 2654435761u >> 20 & 0x7f));
    plx_tiles memory, *tiles = &memory;
    plx_tiles_begin(tiles);
    plx_tile_zero(tiles, 0);
    plx_tile_zero(tiles, 1);
    plx_tile_zero(tiles, 2);
    plx_tile_zero(tiles, 3);
    for (size_t round = 0; round < args->rounds; round++)
        for (size_t k = 0; k < DEPTH; k++) {
            plx_tile_load(tiles, 4, operand[k][0], 64);
            plx_tile_load(tiles, 6, operand[k][2], 64);
            plx_tile_load(tiles, 5, operand[k][1], 64);
            plx_tile_load(tiles, 7, operand[k][3], 64);
            plx_tile_dot(tiles, 0, 4, 6);
            plx_tile_dot(tiles, 1, 5, 6);
            plx_tile_dot(tiles, 2, 4, 7);
            plx_tile_dot(tiles, 3, 5, 7);
        }
    plx_tile_store(tiles, 0, result, 64);
    plx_tile_store(tiles, 1, result, 64);
    plx_tile_store(tiles, 2, result, 64);
    plx_tile_store(tiles, 3, result, 64);
    __asm__ volatile("" ::"r"(result) : "memory"); /* wanted: nothing of it may be left out */
    plx_tiles_end(tiles);
    *args->flops = 4.0 * DEPTH * 2 * 16 * 16 * 32 * (double)args->rounds;
    return PLX_OK;
}
