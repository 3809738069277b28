/* distance.h - how far apart two words are, to guess which one was meant. */
#ifndef PLX_CORE_DISTANCE_H
#define PLX_CORE_DISTANCE_H

/* Least number of letters to insert, delete, replace or swap with the next that makes one the other (optimal string
 * alignment), of the first 63 letters of each. */
int plx_edit_distance(const char *a, const char *b);

#endif
