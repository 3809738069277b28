/* windows.h - a stretch of a token file cut into windows of `length` targets.
 *
 * Window w has the tokens w * length .. w * length + length: inputs are all but the last, targets all but the first. So
 * windows overlap by one token, and each token of the stretch but its first is a target once. */
#ifndef PLX_DATA_WINDOWS_H
#define PLX_DATA_WINDOWS_H

#include "data/corpus.h"

typedef struct plx_windows {
    plx_corpus *corpus; /* not owned */
    uint64_t begin, tokens;
    size_t length;
    int32_t separator;
} plx_windows;

/* Windows without padding; the up to length - 1 targets after them are in none. */
uint64_t plx_windows_whole(const plx_windows *windows);
/* With the padded one at the end that has the rest. */
uint64_t plx_windows_all(const plx_windows *windows);
/* Reads window `index` < plx_windows_all into rows of `length`. `scratch` has room for length + 1 tokens. The padding
 * repeats the separator with mask 0, each token a document of its own. */
plx_status plx_windows_read(const plx_windows *windows, uint64_t index, int32_t *scratch, int32_t *inputs,
                            int32_t *targets, float *mask, int32_t *start);

#endif
