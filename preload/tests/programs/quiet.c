/* Exits at once, with libc. */
int main(void) { return 0; }
