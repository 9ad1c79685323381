/* presets.c - the keys of an objective as a framework has them.
 *
 * A preset changes defaults and nothing else: keys that the user gives win. An objective that a preset does
 * not name keeps its own defaults, which are its authors'. A test sees to it that every pair here is a key of
 * its objective.
 */
#include "loss_private.h"

#include <string.h>

typedef struct preset {
    const char *name, *sets; /* "OBJECTIVE: KEYS", a line each */
} preset;

static const preset table[] = {
    {"mdistiller", "kd: temperature=4,t2=on,reduction=batch\n"},
};

const char *kd_loss_preset(size_t i, const char **sets)
{
    if (i >= KD_COUNT(table)) return NULL;
    if (sets) *sets = table[i].sets;
    return table[i].name;
}

static const preset *find(const char *name)
{
    for (size_t i = 0; i < KD_COUNT(table); i++)
        if (!strcmp(table[i].name, name)) return &table[i];
    return NULL;
}

bool kd__preset_known(const char *name) { return find(name); }

void kd__preset_keys(const char *name, const char *objective, char *buf, size_t len)
{
    const preset *p = find(name);
    size_t n = strlen(objective);
    buf[0] = '\0';
    for (const char *line = p->sets; *line; line += strcspn(line, "\n"), line += *line == '\n')
        if (!strncmp(line, objective, n) && line[n] == ':')
            snprintf(buf, len, "%.*s", (int)strcspn(line + n + 2, "\n"), line + n + 2);
}
