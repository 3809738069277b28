/* windows.c - a stretch of a token file cut into windows. */
#include "data/windows.h"

static uint64_t target_count(const plx_windows *windows) { return windows->tokens > 0 ? windows->tokens - 1 : 0; }

uint64_t plx_windows_whole(const plx_windows *windows) { return target_count(windows) / windows->length; }

uint64_t plx_windows_all(const plx_windows *windows)
{
    return plx_windows_whole(windows) + (target_count(windows) % windows->length != 0);
}

plx_status plx_windows_read(const plx_windows *windows, uint64_t index, int32_t *scratch, int32_t *inputs,
                            int32_t *targets, float *mask, int32_t *start)
{
    uint64_t first = index * windows->length, left = target_count(windows) - first;
    size_t count = left < windows->length ? (size_t)left : windows->length;
    PLX_TRY(plx_corpus_read(windows->corpus, windows->begin + first, count + 1, scratch));
    for (size_t t = 0; t < windows->length; t++) {
        bool inside = t < count, begins = t == 0 || !inside || scratch[t] == windows->separator;
        inputs[t] = inside ? scratch[t] : windows->separator;
        targets[t] = inside ? scratch[t + 1] : windows->separator;
        mask[t] = inside ? 1.0f : 0.0f;
        start[t] = begins ? (int32_t)t : start[t - 1];
    }
    return PLX_OK;
}
