#include <stdio.h>
#include <stdlib.h>

int main(void) { return printf("app works%s\n", getenv("DEBUG") ? ", debug" : "") < 0; }
