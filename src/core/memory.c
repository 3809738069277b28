/* memory.c - how much memory a new allocation may take on this machine. */
#include "core/context.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

/* The first number of a file; false when there is none ("max" in a cgroup's limit). */
static bool read_number(const char *path, unsigned long long *number)
{
    FILE *file = fopen(path, "re");
    if (file == NULL) return false;
    bool read = fscanf(file, "%llu", number) == 1;
    fclose(file);
    return read;
}

/* The number after NAME in a file of lines "NAME number ..." */
static bool read_field(const char *path, const char *name, unsigned long long *number)
{
    FILE *file = fopen(path, "re");
    if (file == NULL) return false;
    char line[256];
    bool found = false;
    size_t length = strlen(name);
    while (!found && fgets(line, sizeof line, file) != NULL)
        found = strncmp(line, name, length) == 0 && sscanf(line + length, "%llu", number) == 1;
    fclose(file);
    return found;
}

/* What one cgroup directory leaves: its limit, less what is used and could not be given back (page cache can). */
static void apply_limit(const char *directory, const char *limit_name, const char *usage_name, const char *cache_name,
                        unsigned long long *available)
{
    char path[PATH_MAX + 64];
    unsigned long long limit, usage, cache = 0;
    snprintf(path, sizeof path, "%s/%s", directory, limit_name);
    if (!read_number(path, &limit)) return;
    snprintf(path, sizeof path, "%s/%s", directory, usage_name);
    if (!read_number(path, &usage)) return;
    snprintf(path, sizeof path, "%s/memory.stat", directory);
    read_field(path, cache_name, &cache);
    usage = usage > cache ? usage - cache : 0;
    unsigned long long left = limit > usage ? limit - usage : 0;
    if (left < *available) *available = left;
}

/* The limits of this process's cgroup and of those above it, version 2. */
static void apply_cgroup2(unsigned long long *available)
{
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (file == NULL) return;
    const char root[] = "/sys/fs/cgroup";
    char line[PATH_MAX], directory[PATH_MAX + sizeof root] = "";
    while (fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, "0::/", 4) != 0) continue;
        line[strcspn(line, "\n")] = '\0';
        snprintf(directory, sizeof directory, "%s%s", root, line + 3);
    }
    fclose(file);
    while (directory[0] != '\0') {
        apply_limit(directory, "memory.max", "memory.current", "inactive_file ", available);
        char *slash = strrchr(directory, '/');
        if (slash < directory + sizeof root - 1) break;
        *slash = '\0';
    }
}

size_t plx_available_memory(void)
{
    unsigned long long available = SIZE_MAX, kilobytes;
    if (read_field("/proc/meminfo", "MemAvailable:", &kilobytes)) available = kilobytes * 1024;
    apply_cgroup2(&available);
    apply_limit("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ",
                &available);
    return (size_t)available;
}
