#include "core/distance.h"

#include <stdbool.h>
#include <string.h>

int plx_edit_distance(const char *a, const char *b)
{
    enum { MOST = 63 };
    int rows[3][MOST + 1]; /* of the whole table, the last three rows */
    int m = (int)strnlen(a, MOST), n = (int)strnlen(b, MOST);
    for (int j = 0; j <= n; j++) rows[0][j] = j;
    for (int i = 1; i <= m; i++) {
        int *row = rows[i % 3], *above = rows[(i + 2) % 3], *above2 = rows[(i + 1) % 3];
        row[0] = i;
        for (int j = 1; j <= n; j++) {
            int best = above[j - 1] + (a[i - 1] != b[j - 1]);
            if (above[j] + 1 < best) best = above[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            bool swap = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (swap && above2[j - 2] + 1 < best) best = above2[j - 2] + 1;
            row[j] = best;
        }
    }
    return rows[m % 3][n];
}
