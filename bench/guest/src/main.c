// husk: the guest benchmark kit: runs one workload of the project's own by name
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kit.h"

void fail(const char* what) {
  fprintf(stderr, "kit: %s: %s\n", what, strerror(errno));
  exit(1);
}

void skip(const char* what) {
  fprintf(stderr, "kit: this CPU has no %s\n", what);
  exit(77);
}

static const struct Workload* const kGroups[] = {kIntegerWorkloads, kFloatWorkloads, kMemoryWorkloads,
                                                 kKernelWorkloads,  kCodeWorkloads,  kSmpWorkloads};

// kit NAME [PERCENT]: runs NAME with PERCENT of its usual work; kit --list: the names.
int main(int argc, char** argv) {
  const int list = argc == 2 && strcmp(argv[1], "--list") == 0;
  for (size_t group = 0; group < sizeof kGroups / sizeof kGroups[0]; ++group) {
    for (const struct Workload* workload = kGroups[group]; workload->name != NULL; ++workload) {
      if (list) {
        puts(workload->name);
      } else if (argc >= 2 && strcmp(argv[1], workload->name) == 0) {
        const uint64_t percent = argc > 2 ? strtoull(argv[2], NULL, 10) : 100;
        const uint64_t count = workload->count * percent / 100;
        printf("%016llx\n", (unsigned long long)workload->run(count == 0 ? 1 : count));
        return 0;
      }
    }
  }
  if (list) return 0;
  fprintf(stderr, "usage: kit WORKLOAD [PERCENT] | kit --list\n");
  return 2;
}
