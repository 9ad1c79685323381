/* presets.c - the keys of an objective as a framework has them.
 *
 * A preset changes defaults and nothing else: keys that the user gives win, and an objective that a preset
 * does not name keeps its own defaults, which are its authors'. Weights stand here where the framework's own
 * scripts or defaults have them; the weight of ce depends on its partner there, so it is never set.
 */
#include "loss_private.h"

#include <string.h>

typedef struct preset {
    const char *name, *sets; /* "OBJECTIVE: KEYS", a line each */
} preset;

static const preset table[] = {
    {"mdistiller", /* and RepDistiller, whose code it took over */
     "kd: weight=0.9,temperature=4,t2=on,reduction=batch,kl_form=kl\n"
     "dkd: weight=warmup 1 20,temperature=4,t2=on,alpha=1,beta=8\n"
     "fitnet: weight=100,projection=regressor\n"
     "at: weight=1000,power=2,mode=code\n"
     "rkd_distance: weight=25\n"
     "rkd_angle: weight=50\n"
     "sp: weight=3000,row_norm=2\n"
     "pkt: weight=30000\n"
     "crd: weight=0.8,negatives=16384\n"},
    {"torchdistill", "kd: t2=on,reduction=batch,kl_form=kl\n"
                     "dist: t2=on,eps_mode=floor,eps=1e-8\n"
                     "lskd: t2=on,std_ddof=1,eps=1e-7\n"
                     "at: power=2,mode=code\n"
                     "rkd_distance: weight=1\n"
                     "rkd_angle: weight=2\n"
                     "sp: row_norm=1\n"},
    {"trl", "gjsd: temperature=0.9,t2=off,reduction=token,beta=0.5\n"},
    {"distillm", "kd: temperature=1,t2=off,reduction=token,kl_form=cross_entropy\n"
                 "reverse_kl: temperature=1,t2=off,reduction=token\n"
                 "gjsd: temperature=1,t2=off,reduction=token,beta=0.1\n"
                 "skl: temperature=1,t2=off,reduction=token,alpha=0.1,kl_form=cross_entropy\n"
                 "srkl: temperature=1,t2=off,reduction=token,alpha=0.1\n"
                 "tvd: temperature=1,t2=off,reduction=token\n"},
    {"distillkit", "kd: t2=on,reduction=token,kl_form=kl\n"
                   "gjsd: t2=on,reduction=token,beta=0.5\n"
                   "tvd: t2=on,reduction=token\n"
                   "sparse_kl: t2=on,reduction=token,sparse=renorm,tail=power,eps=1e-8\n"
                   "sparse_jsd: t2=on,reduction=token,sparse=renorm,tail=power,eps=1e-8,beta=0.5\n"
                   "sparse_tvd: t2=on,reduction=token,sparse=renorm,tail=power,eps=1e-8\n"},
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
