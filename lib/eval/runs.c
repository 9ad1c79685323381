/* lib/eval/runs.c - finding the trained models below folders.
 *
 * A folder with config.json is a run; what kd-train says of it in provenance.json is believed. Where
 * kd-train --select left a selection.json, only the chosen points of its sweep count.
 */
#include "eval_private.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MAX_DEPTH  8
#define JSON_LIMIT (16u << 20)

static kd_status runs_add(kd_runs *runs, const char *folder, kd_err *err)
{
    char *path = kd_path_join(folder, "provenance.json");
    json_t *prov = NULL;
    const char *name, *role;
    int64_t seed;
    kd_status st = path ? KD_OK : kd_fail(err, KD_ENOMEM, "no memory for a path");
    if (st || (st = kd_json_load(path, JSON_LIMIT, &prov, err)) ||
        (st = kd_json_str(prov, "name", &name, path, err)) ||
        (st = kd_json_str(prov, "role", &role, path, err)) ||
        (st = kd_json_int(prov, "seed", 0, INT64_MAX, &seed, path, err)))
        goto out;
    kd_run *grown = realloc(runs->v, (runs->n + 1) * sizeof *grown);
    if (grown) runs->v = grown;
    kd_run r = {.folder = kd_strdup(folder),
                .name = kd_strdup(name),
                .role = kd_strdup(role),
                .seed = (uint64_t)seed};
    if (!grown || !r.folder || !r.name || !r.role) {
        kd__eval_run_release(&r);
        st = kd_fail(err, KD_ENOMEM, "no memory for the list of runs");
        goto out;
    }
    const json_t *seconds = json_object_get(prov, "seconds");
    r.train_s = json_is_number(seconds) ? json_number_value(seconds) : 0;
    runs->v[runs->n++] = r;
out:
    json_decref(prov);
    free(path);
    return st;
}

void kd__eval_run_release(kd_run *r)
{
    free(r->folder), free(r->name), free(r->role), free(r->point);
    free(r->answers), free(r->resampled);
}

static bool is_unfinished(const char *name)
{
    size_t n = strlen(name);
    return n > 5 && !strcmp(name + n - 5, ".part");
}

static kd_status runs_walk(kd_runs *runs, const char *folder, bool selected, int depth, kd_err *err)
{
    char *config = kd_path_join(folder, "config.json");
    if (!config) return kd_fail(err, KD_ENOMEM, "no memory for a path");
    bool leaf = kd_exists(config);
    free(config);
    if (leaf) return runs_add(runs, folder, err);
    if (depth >= MAX_DEPTH) return KD_OK;
    DIR *d = opendir(folder);
    if (!d) return kd_fail_errno(err, errno, "%s: cannot list the folder", folder);
    kd_status st = KD_OK;
    size_t before = runs->n;
    for (struct dirent *e; !st && (e = readdir(d));) {
        if (e->d_name[0] == '.' || is_unfinished(e->d_name)) continue;
        char *path = kd_path_join(folder, e->d_name);
        if (!path)
            st = kd_fail(err, KD_ENOMEM, "no memory for a path");
        else if (kd_is_dir(path))
            st = runs_walk(runs, path, selected, depth + 1, err);
        free(path);
    }
    closedir(d);
    return st || !selected ? st : kd__selection_apply(runs, before, folder, err);
}

static int by_name_role_seed(const void *a, const void *b)
{
    const kd_run *x = a, *y = b;
    int c = strcmp(x->name, y->name);
    if (!c) c = strcmp(x->role, y->role);
    return c ? c : (x->seed > y->seed) - (x->seed < y->seed);
}

kd_status kd_runs_find(kd_runs *runs, const char *folder, bool selected, kd_err *err)
{
    size_t before = runs->n;
    if (!kd_is_dir(folder))
        return kd_fail(err, KD_ENOTFOUND, "%s: no such folder; kd-train writes one (-o FOLDER)", folder);
    kd_status st = runs_walk(runs, folder, selected, 0, err);
    if (st) return st;
    if (runs->n == before)
        return kd_fail(err, KD_ENOTFOUND,
                       "%s: no finished model below it (a folder NAME.part is unfinished: kd-train --resume)",
                       folder);
    qsort(runs->v, runs->n, sizeof *runs->v, by_name_role_seed);
    return KD_OK;
}

void kd_runs_release(kd_runs *runs)
{
    for (size_t i = 0; i < runs->n; i++) kd__eval_run_release(&runs->v[i]);
    free(runs->v);
    memset(runs, 0, sizeof *runs);
}
