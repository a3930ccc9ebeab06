/* Questions of names and their answers, which the gate does not read. */
#ifndef COCORE_GATE_NAMES_H
#define COCORE_GATE_NAMES_H

#include "control.h"

/* Takes what has come to the name server's socket to the daemon; what is too much is lost, as datagrams are. */
void names_take(int socket);

/* Sends the daemon's answer. */
void names_answer(int socket, const struct frame *answer);

#endif
