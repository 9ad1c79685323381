/* kd-report - what kd-eval measured, as one page that people read before they ship. */
#include "kd-report/report_cmd.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define RESULTS_LIMIT (256u << 20)
#define PICTURES_ROOM (480u << 10)

static const kd_option rows[] = {
    {"Output", NULL, "out", "FILE", 'o', KD_OPTION_STRING, offsetof(report_opts, out), NULL, 0, 0, NULL,
     "write the page to FILE, whole or not at all; Markdown without it goes to standard output"},
    {"Output", NULL, "markdown", NULL, 0, KD_OPTION_BOOL, offsetof(report_opts, markdown), "off", 0, 0, NULL,
     "write Markdown: the tables, without plots and pictures"},
    {"Output", NULL, "title", "TEXT", 0, KD_OPTION_STRING, offsetof(report_opts, title), NULL, 0, 0, NULL,
     "heading of the page; else the pipeline's name"},
    {"Output", NULL, "images", "N", 0, KD_OPTION_INT, offsetof(report_opts, images), "10", 0, 200, NULL,
     "pictures of each kind of mistake a student; all of them together take at most 480 KiB"},
    {"Input", NULL, "store", "STORE", 's', KD_OPTION_STRING, offsetof(report_opts, store), NULL, 0, 0, NULL,
     "store with the rows, if it is not where the results say"},
};

static const kd_example examples[] = {
    {"kd-report runs/image -o report.html", "the page of runs/image/results.json"},
    {"kd-report results.json --markdown", "the tables for a pull request"},
    {"kd-report --title 'Shoes, release 3' --store fashion.kd results.json -o report.html",
     "with another heading, from a store that was moved"},
    {NULL, NULL}};

static const kd_tool tool = {
    .name = "kd-report",
    .summary = "one page of tables and plots about students",
    .synopsis = "[options] RUN ... -o FILE",
    .description =
        "RUN is a results file of kd-eval (--results), or a folder with results.json. Several of them stand "
        "one below the "
        "other on the page.\n"
        "The page is one HTML file that loads nothing: verdicts, teacher against students in every measure, "
        "plots of size, "
        "speed and quality, training curves, calibration, confusion, the rows behind copied, new and mended "
        "mistakes, cost of the "
        "cache, provenance. It follows light and dark, fits phones and prints. Plots are drawn by gnuplot; "
        "without it, or without "
        "the store (for pictures) or the runs' folders (for curves), the page says what is missing.",
    .examples = examples,
    .see_also = "kd-eval(1), kd-run(1)",
};

/* ---- one results object ----------------------------------------------------------------------------- */

/* FILE, or FOLDER/results.json; r->folder: where it is. free() the path. */
static kd_status open_results(report *r, const char *run, char **path, json_t **results, kd_err *err)
{
    *path = kd_is_dir(run) ? kd_path_join(run, "results.json") : kd_strdup(run);
    const char *base = *path ? kd_path_base(*path) : NULL;
    r->folder = base
                    ? kd_sprintf("%.*s", base == *path ? 1 : (int)(base - *path), base == *path ? "." : *path)
                    : NULL;
    if (!r->folder) return kd_fail(err, KD_ENOMEM, "no memory for a path");
    if (!kd_exists(*path))
        return kd_fail(err, KD_ENOTFOUND, "%s: no such file; kd-eval writes it: --results %s", *path, *path);
    kd_status st = kd_json_load(*path, RESULTS_LIMIT, results, err);
    if (st) return st;
    const double schema = num(*results, "schema");
    if (!json_is_array(json_object_get(*results, "students")) || !isfinite(schema))
        return kd_fail(err, KD_ECORRUPT, "%s: no results of kd-eval: no list of students, or no schema",
                       *path);
    if (schema != 2)
        return kd_fail(err, KD_EMISMATCH, "%s: schema %g, this version reads 2; measure again with kd-eval",
                       *path, schema);
    return KD_OK;
}

typedef kd_status section(report *r, kd_err *err);

static void put_top(report *r, const char *title)
{
    static const char *const links[][2] = {{"comparison", "Comparison"}, {"tradeoffs", "Trade-offs"},
                                           {"training", "Training"},     {"calibration", "Calibration"},
                                           {"classes", "Classes"},       {"confusion", "Confusion"},
                                           {"mistakes", "Mistakes"},     {"cost", "Cost"},
                                           {"provenance", "Provenance"}};
    kd_buf *b = &r->page;
    char v[40];
    const bool first = r->runs == 1, language = is_language(r);
    kd_buf_printf(b, "%s<header>\n<h1>", first ? "" : "</section></main>\n");
    html_text(b, title);
    kd_buf_printf(b, "</h1>\n<p class=sub>%s ", number(v, num(r->results, "rows"), AS_COUNT));
    html_text(b, str(r->results, "split"));
    if (language)
        kd_buf_printf(b, " rows, %s tokens · ", number(v, num(r->results, "positions"), AS_COUNT));
    else
        kd_buf_printf(b, " rows, %s classes · ", number(v, num(r->results, "classes"), AS_COUNT));
    const char *date = str(json_object_get(r->results, "provenance"), "date"); // 2026-11-26T21:00:00Z
    html_text(b, strlen(date) == 20 ? (snprintf(v, sizeof v, "%.10s, %.5s UTC", date, date + 11), v) : date);
    kd_buf_puts(b, "</p>\n");
    if (first) {
        kd_buf_puts(b, "<nav aria-label=Sections>");
        for (size_t i = 0; i < KD_COUNT(links) && !language; i++)
            kd_buf_printf(b, "<a href=\"#%s\">%s</a>", links[i][0], links[i][1]);
        kd_buf_puts(b, "</nav>\n");
    }
    kd_buf_puts(b, "</header>\n<main>\n<section class=top>\n");
}

static kd_status put_run(report *r, kd_err *err)
{
    static section *const sections[] = {put_summary,     put_comparison, put_tradeoffs, put_curves,
                                        put_reliability, put_classes,    put_confusion, put_mistakes,
                                        put_cost,        put_provenance},
                          *const of_language[] = {put_summary, put_comparison, put_language, put_provenance};
    const bool language = is_language(r);
    const char *name = str(r->results, "pipeline"), *title = r->o->title && r->runs == 1 ? r->o->title
                                                             : *name                     ? name
                                                                                         : "kd";
    kd_status st = KD_OK;
    if (r->o->markdown) return put_markdown(r, err);
    if (r->runs == 1) html_head(r, title);
    put_top(r, title);
    for (size_t i = 0; i < (language ? KD_COUNT(of_language) : KD_COUNT(sections)) && !st; i++)
        st = (language ? of_language : sections)[i](r, err);
    return st;
}

/* ---- the page ---------------------------------------------------------------------------------------- */

static kd_status write_page(report *r, kd_err *err)
{
    char size[32];
    if (r->page.failed) return kd_fail(err, KD_ENOMEM, "no memory for the page");
    if (r->o->out) {
        kd_cli_note((kd_cli *)r->cli, "%s, %s", r->o->out, kd_fmt_bytes(size, (double)r->page.len));
        return kd_file_write(r->o->out, r->page.text, r->page.len, err);
    }
    fwrite(r->page.text, 1, r->page.len, stdout);
    return KD_OK;
}

static kd_status run(kd_cli *c, const report_opts *o, kd_err *err)
{
    report r = {.cli = c, .o = o, .room = PICTURES_ROOM};
    kd_status st = KD_OK;
    if (!c->nargs)
        return kd_fail(err, KD_EUSAGE, "no results given; name a results file of kd-eval, or its folder");
    if (!o->out && !o->markdown)
        return kd_fail(err, KD_EUSAGE, "where does the page go? -o report.html, or --markdown");
    for (int i = 0; i < c->nargs && !st; i++) {
        char *path = NULL;
        json_t *results = NULL;
        if (!(st = open_results(&r, c->args[i], &path, &results, err))) {
            r.results = results;
            r.runs++;
            st = put_run(&r, err);
        }
        json_decref(results);
        free(path);
        free(r.folder);
        r.folder = NULL;
    }
    if (!st && !o->markdown) html_end(&r);
    if (!st) st = write_page(&r, err);
    kd_buf_release(&r.page);
    return st;
}

int main(int argc, char **argv)
{
    report_opts o;
    kd_cli cli;
    kd_err err = {0};
    kd_cli_init(&cli, &tool, argc, argv);
    kd_cli_table(&cli, rows, KD_COUNT(rows), &o);
    if (!kd_cli_parse(&cli, &err)) run(&cli, &o, &err);
    return kd_cli_finish(&cli, &err);
}
