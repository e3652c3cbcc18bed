// husk: the guest benchmark kit: the smallest program that a fork and exec can start
int main(void) { return 42; }
