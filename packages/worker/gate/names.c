#include "names.h"

#include <arpa/inet.h>
#include <sys/socket.h>

#include "clock.h"
#include "network.h"
#include "place.h"
#include "util.h"

/* The longest question that a name server without extensions takes. */
#define QUESTION_MAX_BYTES 512

static struct rate questions = {.per_second = 100, .burst = 200};

void names_take(int socket)
{
  for (;;) {
    uint8_t bytes[QUESTION_MAX_BYTES + 1];
    struct sockaddr_in from;
    socklen_t size = sizeof from;
    long length = RETRY(recvfrom(socket, bytes, sizeof bytes, 0, (struct sockaddr *) &from, &size));
    if (length < 0)
      return;
    if (length > QUESTION_MAX_BYTES || !rate_take(&questions, now_ms()))
      continue;
    control_say('d', ntohs(from.sin_port), bytes, (size_t) length);
  }
}

void names_answer(int socket, const struct frame *answer)
{
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t) answer->id)};
  inet_pton(AF_INET, NETWORK_GUEST, &to.sin_addr);
  /* A guest that does not take it asks again. */
  (void) !sendto(socket, answer->bytes, answer->length, 0, (struct sockaddr *) &to, sizeof to);
}
