/* report_cmd.h - what the files of kd-report share: the page as it grows, and how text and numbers get into
 * it.
 *
 * Everything in a results object may come from strangers (class names, folders, commands): text reaches the
 * page through html_text only, and gnuplot not at all. */
#ifndef REPORT_CMD_H
#define REPORT_CMD_H

#include "kd/cli.h"

typedef struct report_opts {
    char *out, *store, *title;
    bool markdown;
    int64_t images;
} report_opts;

typedef struct report {
    const kd_cli *cli;
    const report_opts *o;
    const json_t *results;
    char *folder; /* of the results file: where relative names may begin */
    kd_buf page;
    int plots, runs; /* so far, for ids */
    bool no_gnuplot; /* it is not installed: said once */
    size_t room;     /* bytes that pictures may still take */
} report;

/* ---- values.c: members, and numbers as text ------------------------------------------------------- */

double num(const json_t *o, const char *key);      /* NAN: missing or null */
const char *str(const json_t *o, const char *key); /* "": missing */
double mean_of(const json_t *list, double *sd);    /* of numbers; NAN: empty; sd NAN below two; may be NULL */
typedef enum { AS_SHARE, AS_POINTS, AS_REAL, AS_COUNT, AS_ROUGH, AS_BYTES, AS_US, AS_SECONDS, AS_RATE } number_form;
/* "85.24 %", "+1.17", "0.231", "24,058", "1.1 M", "96 KiB", "56 us"; "–" for NAN. buf: 40 bytes; returns buf. */
const char *number(char *buf, double v, number_form as);
/* Everything the page shows of a model is found in its own object: the teacher first, then the students. */
size_t models(const report *r, const json_t **out, size_t max);
const char *model_name(const report *r, const json_t *model);
const char *class_name(const report *r, int64_t c, char *buf); /* buf: 24 bytes */
/* A path of the results: as it is, or from the results' folder; free() it; NULL: there is neither. */
char *locate(const report *r, const char *path);

/* ---- html.c ------------------------------------------------------------------------------------- */

void html_text(kd_buf *b, const char *text); /* escaped, for content and double-quoted attributes */
void html_head(report *r, const char *title);
void html_section(report *r, const char *id, const char *heading, const char *lead); /* ends the one before */
void html_end(report *r);
void html_table(report *r, const char *label, const char *kind); /* opens a table that scrolls by itself */
void html_table_end(report *r);
extern const char html_style[];

/* ---- gnuplot.c ---------------------------------------------------------------------------------- */

#define PLOT_LABELS 64
typedef struct plot {
    kd_buf script;
    const char *label[PLOT_LABELS]; /* borrowed */
    int labels;
} plot;
/* Colours of the page, as gnuplot is told them. */
#define INK_AXIS    "rgb '#010101'"
#define INK_GRID    "rgb '#020202'"
#define INK_MAIN    "rgb '#030303'" /* students with the teacher */
#define INK_PLAIN   "rgb '#040404'" /* without it */
#define INK_TEACHER "rgb '#050505'"
void plot_begin(plot *p, int width, int height, const char *xlabel, const char *ylabel);
/* A word in the script that becomes text in the plot. */
void plot_label(plot *p, const char *text);
/* Runs the script and appends a figure. title, about: what the plot shows, in words; not from strangers
 * unless escaped by this function, which does. Releases p. */
kd_status plot_end(report *r, plot *p, const char *title, const char *about, kd_err *err);

/* ---- the sections ------------------------------------------------------------------------------- */

kd_status put_summary(report *r, kd_err *err);
kd_status put_comparison(report *r, kd_err *err);
kd_status put_tradeoffs(report *r, kd_err *err);
kd_status put_language(report *r, kd_err *err);
bool is_language(const report *r); /* results of language models */
kd_status put_curves(report *r, kd_err *err);
kd_status put_reliability(report *r, kd_err *err);
kd_status put_classes(report *r, kd_err *err);
kd_status put_confusion(report *r, kd_err *err);
kd_status put_mistakes(report *r, kd_err *err);
kd_status put_cost(report *r, kd_err *err);
kd_status put_provenance(report *r, kd_err *err);
/* The same in Markdown, without plots and pictures. */
kd_status put_markdown(report *r, kd_err *err);

/* What a teacher beside the students would have cost. */
typedef struct cache_cost {
    double pass_s, row_s; /* of the teacher; NAN: not known */
    double rows;          /* that the students with the teacher saw, epochs counted */
    double epoch_rows;    /* of one student's epoch; NAN */
} cache_cost;
cache_cost cost_of(const report *r);

/* One row of the comparison. */
typedef struct measure {
    const char *group, *key, *label;
    number_form as;
    int better; /* 1: more, -1: less, 0: neither */
} measure;
extern const measure report_measures[];
extern const size_t report_measures_n;

#endif
