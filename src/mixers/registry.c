/* registry.c - the list of mixers, made from registry.def. */
#include "mixers/mixer.h"

#include <string.h>

#define PLX_MIXER(name) extern const plx_mixer name;
#include "mixers/registry.def"
#undef PLX_MIXER

const plx_mixer *const plx_mixers[] = {
#define PLX_MIXER(name) &name,
#include "mixers/registry.def"
#undef PLX_MIXER
    NULL};

const plx_mixer *plx_mixer_find(const char *name)
{
    for (size_t i = 0; plx_mixers[i] != NULL; i++)
        if (strcmp(plx_mixers[i]->name, name) == 0) return plx_mixers[i];
    return NULL;
}
