// Serves xDS with Envoy's own Go implementation, so that tests have a control plane that shares
// no code with this repository's.
//
// It reads Envoy resources from a YAML or JSON file (`resources:`, a list of messages with
// `@type`) and serves them over ADS, in both forms, to whoever asks. SIGHUP makes it read the file
// again. What happens is written to standard output, one JSON object a line.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"sigs.k8s.io/yaml"

	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
)

func main() {
	file := flag.String("resources", "", "file of resources")
	listen := flag.String("listen", "127.0.0.1:0", "address to listen on")
	flag.Parse()
	if err := run(*file, *listen); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(file, listen string) error {
	out := &events{versions: map[string]string{}}
	snapshots := cache.NewSnapshotCache(true, everyone{}, nil)
	if err := load(snapshots, file); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	go func() {
		for range reload {
			if err := load(snapshots, file); err != nil {
				out.write(event{Event: "error", Error: err.Error()})
			} else {
				out.write(event{Event: "loaded"})
			}
		}
	}()
	serving := grpc.NewServer()
	discovery.RegisterAggregatedDiscoveryServiceServer(
		serving, server.NewServer(context.Background(), snapshots, out.callbacks()))
	out.write(event{Event: "listening", Address: listener.Addr().String()})
	return serving.Serve(listener)
}

// everyone gives the same snapshot to all nodes.
type everyone struct{}

func (everyone) ID(*core.Node) string { return "everyone" }

// load reads the file and serves what is in it.
func load(snapshots cache.SnapshotCache, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var content struct {
		Resources []json.RawMessage `json:"resources"`
	}
	if err := yaml.UnmarshalStrict(text, &content); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	byType := map[types.ResponseType][]types.Resource{}
	for index, raw := range content.Resources {
		var packed anypb.Any
		if err := protojson.Unmarshal(raw, &packed); err != nil {
			return fmt.Errorf("%s: resources[%d]: %w", file, index, err)
		}
		message, err := packed.UnmarshalNew()
		if err != nil {
			return fmt.Errorf("%s: resources[%d]: %w", file, index, err)
		}
		kind := cache.GetResponseType(packed.TypeUrl)
		if kind == types.UnknownType {
			return fmt.Errorf("%s: resources[%d]: %s is no resource", file, index, packed.TypeUrl)
		}
		byType[kind] = append(byType[kind], message)
	}
	snapshot := &cache.Snapshot{}
	for kind := range snapshot.Resources {
		list := byType[types.ResponseType(kind)]
		version, err := versionOf(list)
		if err != nil {
			return err
		}
		snapshot.Resources[kind] = cache.NewResources(version, list)
	}
	return snapshots.SetSnapshot(context.Background(), "everyone", snapshot)
}

// versionOf hashes the resources of a type: only types that changed get a new version.
func versionOf(list []types.Resource) (string, error) {
	hash := sha256.New()
	for _, message := range list {
		bytes, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
		if err != nil {
			return "", err
		}
		hash.Write(bytes)
	}
	return hex.EncodeToString(hash.Sum(nil))[:12], nil
}

// event is one line of the output.
type event struct {
	Event   string `json:"event"`
	Address string `json:"address,omitempty"`
	Form    string `json:"form,omitempty"`
	Type    string `json:"type,omitempty"`
	// Version is that of the response which is sent or answered.
	Version string `json:"version,omitempty"`
	Error   string `json:"error,omitempty"`
	// Names are those asked for; Sent and Removed are the resources of a response.
	Names   []string          `json:"names,omitempty"`
	Initial map[string]string `json:"initial,omitempty"`
	Sent    int               `json:"sent,omitempty"`
	Removed []string          `json:"removed,omitempty"`
}

// events writes what happens, and remembers which version a nonce stands for.
type events struct {
	lock     sync.Mutex
	versions map[string]string
}

func (e *events) write(line event) {
	text, err := json.Marshal(line)
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	e.lock.Lock()
	defer e.lock.Unlock()
	fmt.Println(string(text))
}

func (e *events) sent(stream int64, nonce string, line event) {
	e.lock.Lock()
	e.versions[fmt.Sprint(line.Form, stream, line.Type, nonce)] = line.Version
	e.lock.Unlock()
	e.write(line)
}

func (e *events) asked(stream int64, nonce string, failed *status.Status, line event) {
	e.lock.Lock()
	line.Version = e.versions[fmt.Sprint(line.Form, stream, line.Type, nonce)]
	e.lock.Unlock()
	switch {
	case failed != nil:
		line.Event, line.Error = "nack", failed.Message
		// In the state of the world, the library sends the same again at once, without end.
		defer time.Sleep(50 * time.Millisecond)
	case nonce != "":
		line.Event = "ack"
	default:
		line.Event = "subscribe"
	}
	e.write(line)
}

func (e *events) callbacks() server.Callbacks {
	return server.CallbackFuncs{
		StreamRequestFunc: func(stream int64, request *discovery.DiscoveryRequest) error {
			e.asked(stream, request.ResponseNonce, request.ErrorDetail, event{
				Form: "sotw", Type: request.TypeUrl, Names: request.ResourceNames,
			})
			return nil
		},
		StreamResponseFunc: func(_ context.Context, stream int64, _ *discovery.DiscoveryRequest, response *discovery.DiscoveryResponse) {
			e.sent(stream, response.Nonce, event{
				Event: "send", Form: "sotw", Type: response.TypeUrl,
				Version: response.VersionInfo, Sent: len(response.Resources),
			})
		},
		StreamDeltaRequestFunc: func(stream int64, request *discovery.DeltaDiscoveryRequest) error {
			e.asked(stream, request.ResponseNonce, request.ErrorDetail, event{
				Form: "delta", Type: request.TypeUrl, Names: request.ResourceNamesSubscribe,
				Initial: request.InitialResourceVersions,
			})
			return nil
		},
		StreamDeltaResponseFunc: func(stream int64, _ *discovery.DeltaDiscoveryRequest, response *discovery.DeltaDiscoveryResponse) {
			e.sent(stream, response.Nonce, event{
				Event: "send", Form: "delta", Type: response.TypeUrl,
				Version: response.SystemVersionInfo, Sent: len(response.Resources),
				Removed: response.RemovedResources,
			})
		},
	}
}
