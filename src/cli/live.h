/* live.h - the line that moves at the end of a terminal: what the program does, how far it is, how long the rest takes.
 * Where stderr is no terminal, plain lines now and then say the same. */
#ifndef PLX_CLI_LIVE_H
#define PLX_CLI_LIVE_H

#include "cli/cli.h"

enum { CLI_LINE_BYTES = 512 };
#define CLI_LIVE_PAUSE 0.1 /* seconds between two drawings of the live line, */
#define CLI_PLAIN_PAUSE 10 /* and between two plain lines */

/* Seconds of a clock that only runs forward. */
double cli_seconds(void);
/* "4m07s", "2h03m", "12s": into the caller's buffer, which is returned. */
const char *cli_time_text(double seconds, char buffer[32]);
/* Whether stderr is a terminal and the line may move. */
bool cli_live(const plx_cli *cli);
/* Columns of the terminal that a line may fill. */
int cli_live_width(void);
/* Adds "[===>   ] " in at most `cells` characters to the line; nothing where that is too few to tell anything. */
void cli_put_bar(char line[CLI_LINE_BYTES], double part, int cells);
/* Draws the line, cut to the terminal's width so that it stays one. */
void cli_live_draw(plx_cli *cli, const char *line);
/* Wipes it, before anything else is written. */
void cli_live_wipe(plx_cli *cli);

/* The context's progress callback, with the plx_cli as user. */
void cli_live_progress(void *cli, const char *what, double done, double total);

#endif
