/* soon.h - arrays that the next job reads or writes, asked for some tokens at a time while this job works, so that they
 * are near when the next one begins. */
#ifndef PLX_MIXERS_ATTENTION_AMX_SOON_H
#define PLX_MIXERS_ATTENTION_AMX_SOON_H

#include <stdbool.h>
#include <stddef.h>

#define SOON_MOST 8
#define SOON_TURNS 8 /* calls of soon_fetch a square of 32 queries by 32 keys */

typedef struct soon {
    size_t count;
    struct {
        const float *data;
        size_t tokens, width, stride; /* numbers a token, from token to token */
        bool written;
    } of[SOON_MOST];
    size_t done, each; /* tokens */
} soon;

static inline void soon_begin(soon *s) { s->count = s->done = 0; }
/* How many tokens are asked for at a time, for all to have been by so many calls of soon_fetch. */
static inline void soon_pace(soon *s, size_t calls)
{
    size_t most = 0;
    for (size_t i = 0; i < s->count; i++)
        if (s->of[i].tokens > most) most = s->of[i].tokens;
    s->each = 1 + most / (calls + 1);
}
static inline void soon_add(soon *s, const void *base, size_t at, size_t tokens, size_t width, size_t stride,
                            bool written)
{
    s->of[s->count].data = (const float *)base + at;
    s->of[s->count].tokens = tokens;
    s->of[s->count].width = width;
    s->of[s->count].stride = stride;
    s->of[s->count++].written = written;
}
static inline void soon_fetch(soon *s)
{
    for (size_t end = s->done + s->each; s->done < end; s->done++)
        for (size_t i = 0; i < s->count; i++) {
            if (s->done >= s->of[i].tokens) continue;
            const float *from = s->of[i].data + s->done * s->of[i].stride;
            for (size_t c = 0; c < s->of[i].width; c += 16)
                if (s->of[i].written)
                    __builtin_prefetch(from + c, 1, 2);
                else
                    __builtin_prefetch(from + c, 0, 2);
        }
}

#endif
