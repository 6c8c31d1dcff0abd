# One image with the three programs; the command says which one runs.
FROM golang:1.26.8 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ENV CGO_ENABLED=0 GOWORK=off
RUN go build -trimpath -o /out/outflow ./cmd/outflow \
 && go build -trimpath -o /out/outflow-starter ./starter \
 && go build -trimpath -o /out/outflow-worker ./worker

FROM alpine:3.22.2
RUN adduser -D -u 65532 outflow
USER 65532
COPY --from=build /out/ /usr/local/bin/
ENV PATH=/usr/local/bin
CMD ["outflow", "help"]
