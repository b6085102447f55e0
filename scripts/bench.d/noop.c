/* A program that does nothing, without a C library: the least that starting a process can cost.
 * Built with -static -nostdlib. As the "compiler" of a build it shows what make and sh cost alone. */
__attribute__((noreturn)) void _start(void)
{
    __asm__ volatile("mov $60, %eax\n\txor %edi, %edi\n\tsyscall");
    __builtin_unreachable();
}
