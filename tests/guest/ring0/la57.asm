; husk: the tests of paging64.inc under five-level paging (SDM 3A 4.5.4)
%define LA57
%include "paging64.inc"
