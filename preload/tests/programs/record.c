/* Shows who it is and what it was given; WHO is set when it is compiled. */
#include <stdio.h>
extern char **environ;
int main(int argc, char **argv) {
    printf("who=" WHO "\n");
    for (int i = 0; i < argc; i++) printf("arg=%s\n", argv[i]);
    for (char **entry = environ; *entry; entry++) printf("env=%s\n", *entry);
    return 42;
}
