/* registry.c - the list of mixers, made from registry.def. */
#include "mixers/mixer.h"

#include <stdio.h>
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

void plx_mixer_names(char names[PLX_MIXER_NAMES])
{
    size_t length = 0;
    names[0] = '\0';
    for (size_t i = 0; plx_mixers[i] != NULL && length < PLX_MIXER_NAMES; i++)
        length +=
            (size_t)snprintf(names + length, PLX_MIXER_NAMES - length, "%s%s", i > 0 ? ", " : "", plx_mixers[i]->name);
}
