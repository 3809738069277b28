#include "cli/live.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

static const double RATE_AFTER = 0.5;  /* no time left is told from less */
enum { BAR_CELLS = 32 };

double cli_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

const char *cli_time_text(double seconds, char buffer[32])
{
    if (!(seconds >= 0 && seconds < 1e9)) seconds = 0;
    long whole = lround(seconds);
    if (whole < 60) snprintf(buffer, 32, "%lds", whole);
    else if (whole < 3600) snprintf(buffer, 32, "%ldm%02lds", whole / 60, whole % 60);
    else snprintf(buffer, 32, "%ldh%02ldm", whole / 3600, whole / 60 % 60);
    return buffer;
}

bool cli_live(const plx_cli *cli) { return !cli->quiet && isatty(STDERR_FILENO); }

int cli_live_width(void)
{
    struct winsize size;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col - 1 : 79;
}

void cli_put_bar(char line[CLI_LINE_BYTES], double part, int cells)
{
    char bar[BAR_CELLS + 1];
    if (cells > BAR_CELLS) cells = BAR_CELLS;
    if (cells < 6) return;
    int full = (int)(fmin(fmax(part, 0), 1) * (cells - 2));
    for (int i = 0; i < cells - 2; i++) bar[i] = i < full ? '=' : i == full ? '>' : ' ';
    bar[cells - 2] = '\0';
    size_t used = strlen(line);
    snprintf(line + used, CLI_LINE_BYTES - used, "[%s] ", bar);
}

void cli_live_draw(plx_cli *cli, const char *line)
{
    fprintf(stderr, "\r%.*s\033[K", cli_live_width(), line);
    fflush(stderr);
    cli->live_line = true;
}

void cli_live_wipe(plx_cli *cli)
{
    if (cli->live_line) fputs("\r\033[K", stderr);
    cli->live_line = false;
}

/* A work is new when its size is another one, or when less of it is done than was. */
static void begin_if_new(cli_work *work, const char *what, double done, double total)
{
    if (work->begun > 0 && total == work->total && done >= work->done &&
        (total > 0 || strncmp(work->what, what, sizeof work->what - 1) == 0))
        return;
    *work = (cli_work){.begun = cli_seconds(), .first = done, .total = total, .drawn = work->drawn};
    snprintf(work->what, sizeof work->what, "%s", what);
}

void cli_live_progress(void *user, const char *what, double done, double total)
{
    plx_cli *cli = user;
    cli_work *work = &cli->work;
    begin_if_new(work, what, done, total);
    work->done = done;
    const double now = cli_seconds(), passed = now - work->begun;
    const bool live = cli_live(cli);
    /* What ends soon shows nothing: a work that may be slow from its first piece on says so with done = 0. */
    if (cli->quiet || (total > 0 && done >= total) || (live ? done > 0 && passed < CLI_LIVE_PAUSE : passed < CLI_PLAIN_PAUSE)) return;
    if (now - work->drawn < (live ? CLI_LIVE_PAUSE : CLI_PLAIN_PAUSE)) return;
    work->drawn = now;

    char line[CLI_LINE_BYTES] = "", part[16] = "", left[32], rest[48] = "";
    if (total > 0) snprintf(part, sizeof part, "  %.0f%%", 100 * done / total);
    if (total > 0 && done > work->first && passed >= RATE_AFTER)
        snprintf(rest, sizeof rest, "  %s left",
                 cli_time_text(passed / (done - work->first) * (total - done), left));
    if (live && total > 0) cli_put_bar(line, done / total, BAR_CELLS);
    const size_t used = strlen(line);
    snprintf(line + used, sizeof line - used, "%.100s%s%s", what, part, rest);
    if (live) cli_live_draw(cli, line);
    else fprintf(stderr, "plexus: %s\n", line);
}
