; husk: the tests of long4.asm under five-level paging (SDM 3A 4.5.4)
%define LA57
%include "long4.asm"
